"""A program that stands for ``python -m editspec`` where starting Python is not what is tested.

A server imports editspec and torch once and forks for each command, which begins at once instead of
after seconds of imports. Arguments, folder, environment and the three streams are those of whoever
calls the program; interrupts reach the command, and its exit code comes back.
"""

from __future__ import annotations

import array
import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRELOADED = (
    "editspec.cli.main",
    "editspec.commands.build",
    "editspec.commands.ci",
    "editspec.studio.server",
)
"""What the server imports; torch comes with it."""

CLIENT = """\
#!{python} -IS
import array, json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(call).to_bytes(4, "big")], streams)
server.sendall(call)
answers = server.makefile("r")
command = int(answers.readline())
signal.signal(signal.SIGINT, lambda number, frame: os.kill(command, number))
sys.exit(int(answers.readline()))
"""

FORK = multiprocessing.get_context("fork")


@contextmanager
def preloaded_program(folder: Path) -> Iterator[Path]:
    """A program in a folder that runs commands of editspec, until the context ends.

    The folder's name is short: the address of a socket has at most 107 bytes.
    """
    address = str(folder / "socket")
    program = folder / "editspec"
    program.write_text(CLIENT.format(python=sys.executable, address=address))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        command = [sys.executable, "-m", "tests.preloaded", str(listening.fileno())]
        server = subprocess.Popen(command, pass_fds=[listening.fileno()])
    yield program
    server.terminate()
    server.wait()


def serve(listening: socket.socket) -> None:
    """Fork for each call, and collect those that have ended."""
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            answer(connection)
            os._exit(0)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def answer(connection: socket.socket) -> None:
    """Run the command of a call, and tell its process and its exit code."""
    streams = array.array("i")
    size, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(ancillary[0][2])
    with connection.makefile("r") as file:
        arguments, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    command = FORK.Process(target=run, args=(arguments, folder, environment, list(streams)))
    command.start()
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{command.pid}\n".encode())
    command.join()
    connection.sendall(f"{command.exitcode}\n".encode())


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Run a command as ``python -m editspec`` does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, closefd=False)  # a process of multiprocessing has none
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["editspec", *arguments]
    importlib.import_module("editspec.cli.main").main()


def main() -> None:
    """Import what commands need, and serve."""
    for name in PRELOADED:
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
