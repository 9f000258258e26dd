"""Connections to the studio that send nothing, or never end, are let go of."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from editspec.studio import connections, guard
from editspec.studio.guard import Guard

PATIENCE = 300
"""Seconds after which a wait for something that has to happen is given up."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, however slow the machine is."""
    given_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < given_up
        time.sleep(0.01)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Read a request, and say ok; of an exception, its status."""
    status = 200
    try:
        while (await receive()).get("more_body"):
            pass
    except Exception as error:
        status = getattr(error, "status_code", 500)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serve() -> Iterator[tuple[int, set[Any]]]:
    """Serve behind the guard with the limits of the studio: the port, and what is connected."""
    app = Guard(answer, "t0ken", "127.0.0.1")
    config = uvicorn.Config(
        app, http=connections.LimitedProtocol, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield listening.getsockname()[1], server.server_state.connections
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def read(connection: socket.socket) -> bytes:
    """Read until the server lets go, and close."""
    found = b""
    try:
        while data := connection.recv(4096):
            found += data
    except ConnectionResetError:
        pass
    finally:
        connection.close()
    return found


HEAD = b"Host: 127.0.0.1\r\nAuthorization: Bearer t0ken\r\n"


def test_requests_that_never_finish_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with serve() as (port, _):
        # Each of these reads ends because the server lets go: it would wait for minutes.
        assert read(connect(port)) == b""
        assert read(connect(port, b"GET / HTTP/1.1\r\nHost: ")) == b""
        slow = connect(port, b"POST / HTTP/1.1\r\nContent-Length: 100\r\n" + HEAD + b"\r\nhalf")
        assert b" 408 " in read(slow)
        # Negative control: a whole request is answered.
        whole = (
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n" + HEAD + b"\r\nhalf"
        )
        assert b" 200 " in read(connect(port, whole))


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    request = b"GET / HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n"
    with serve() as (port, connected):
        idle = [connect(port) for _ in range(5)]
        wait_for(lambda: len(connected) == 5)
        refused = connect(port)
        assert read(refused) == b""
        for connection in idle:
            connection.close()
        wait_for(lambda: not connected)
        assert b" 200 " in read(connect(port, request))
