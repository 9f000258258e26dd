"""A cache on a server, which machines share: entries by their names, read or also written.

The server is trusted as the folder of a cache is, and no more: `Cache` compares an entry with the
digest that it carries, which binds the content to its name, and whoever takes a file by its own
digest compares that. A server that does not answer costs one warning. Imports no torch.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from editspec_runtime.errors import UsageError

REMOTE = "EDITSPEC_REMOTE"
"""The environment variable that says where the server is."""

TOKEN = "EDITSPEC_REMOTE_TOKEN"
"""The environment variable with what the server wants to see, if it does."""

WRITE = "EDITSPEC_REMOTE_WRITE"
"""The environment variable that lets entries be written: 1, and by default not."""

KINDS = frozenset({"statistics", "solutions", "losses", "rules", "patches"})
"""The kinds of entries that are shared: few for an edit, and each worth a request."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

LARGEST = 2**31
"""The most bytes of an entry."""

TIMEOUT = 30.0
"""Seconds without a byte after which the server counts as gone."""


def is_offline() -> bool:
    """Whether nothing may be fetched: ``$EDITSPEC_OFFLINE`` is set to anything but 0."""
    return _is_set("EDITSPEC_OFFLINE")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


class _NoRedirections(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirection, which would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer is an error then."""


@dataclass(frozen=True)
class RemoteCache:
    """A server that holds entries.

    Attributes
    ----------
    address
        ``https://HOST/PATH``; ``http`` on this machine alone.
    token
        What the server wants to see as ``Authorization: Bearer``; empty where it wants nothing.
    writes
        Whether entries that are computed here are written to the server.
    """

    address: str
    token: str = ""
    writes: bool = False

    def get(self, kind: str, key: str) -> bytes | None:
        """Get an entry of a shared kind; None where the server does not have it or is gone."""
        answer = self._ask("GET", kind, key)
        return None if answer is None or len(answer) > LARGEST else answer

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Write an entry of a shared kind, where that is allowed."""
        if self.writes:
            self._ask("PUT", kind, key, data)

    def _ask(self, method: str, kind: str, key: str, data: bytes | None = None) -> bytes | None:
        if kind not in KINDS or self.address in _gone or is_offline():
            return None
        address = f"{self.address}/{kind}/{key}.safetensors"
        request = urllib.request.Request(address, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/octet-stream")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        opener = urllib.request.build_opener(_NoRedirections)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                found: bytes = answer.read(LARGEST + 1)
                return found
        except urllib.error.HTTPError as error:
            error.close()
            if not (method == "GET" and error.code == 404):
                self._leave(f"the server says {error.code}")
        except (OSError, http.client.HTTPException, ValueError):
            self._leave("the connection failed or broke")
        return None

    def _leave(self, reason: str) -> None:
        """Say on stderr that the server is of no use, and ask it no more in this process."""
        _gone.add(self.address)
        sys.stderr.write(
            f"warning: The remote cache {self.address} cannot be used: {reason}. Results are "
            f"computed here.\n  Check {REMOTE}, {TOKEN} and the connection.\n"
        )


_gone: set[str] = set()
"""The servers that were warned of."""


def find_remote() -> RemoteCache | None:
    """Find the remote cache that the environment names; None where it names none.

    Raises `UsageError` where the address is none that can be used.
    """
    address = os.environ.get(REMOTE, "").rstrip("/")
    if not address:
        return None
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    plain = parts.scheme == "http" and host in LOOPBACK
    if not host or parts.query or parts.fragment or not (parts.scheme == "https" or plain):
        raise UsageError(
            f"{REMOTE} is {address}, expected https://HOST/PATH.",
            "Give the address of a server that answers GET and, to be written to, PUT.",
        )
    return RemoteCache(address, os.environ.get(TOKEN, ""), _is_set(WRITE))
