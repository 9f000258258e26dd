"""A server that holds entries by their names, asked over HTTP. Imports no torch."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

LARGEST = 2**31
"""The most bytes of an entry."""

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""


BROKEN = "the connection failed or broke"


class StoreError(Exception):
    """A server that does not give what was asked, or refuses what is to be written.

    Attributes
    ----------
    reason
        What it says, as the end of a sentence.
    hint
        What helps.
    refuses
        Whether it is there, and refuses this request.
    """

    def __init__(self, reason: str, hint: str, *, refuses: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.refuses = refuses


def require_whole(data: bytes, length: int | None) -> None:
    """Raise an `OSError` where less came than was announced, and no bound has cut it."""
    if length is not None and len(data) < min(length, LARGEST + 1):
        raise OSError("The connection broke.")


class RemoteStore(Protocol):
    """A server that holds entries by their names, such as ``patches/KEY.safetensors``."""

    def read(self, name: str) -> bytes | None:
        """Read an entry; None where the server does not have it. Raises `StoreError`."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write an entry, whole or not at all. Raises `StoreError`."""
        ...


class _NoRedirections(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirection, which would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer is an error then."""


@dataclass(frozen=True)
class HttpStore:
    """A server that answers GET and, to be written to, PUT.

    Attributes
    ----------
    address
        ``https://HOST/PATH``; ``http`` on this machine alone.
    token
        What the server wants to see as ``Authorization: Bearer``; empty where it wants nothing.
    hint
        What helps where the server is of no use.
    """

    address: str
    token: str
    hint: str

    def read(self, name: str) -> bytes | None:
        """Read an entry; None where the server answers 404."""
        return self._ask("GET", name)

    def write(self, name: str, data: bytes) -> None:
        """Write an entry."""
        self._ask("PUT", name, data)

    def _ask(self, method: str, name: str, data: bytes | None = None) -> bytes | None:
        request = urllib.request.Request(f"{self.address}/{name}", data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/octet-stream")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        opener = urllib.request.build_opener(_NoRedirections)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                length = answer.length
                found: bytes = answer.read(LARGEST + 1)
            require_whole(found, length)
            return found
        except urllib.error.HTTPError as error:
            error.close()
            if method == "GET" and error.code == 404:
                return None
            reason = f"the server says {error.code}"
            raise StoreError(reason, self.hint, refuses=error.code in (401, 403, 405)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StoreError(BROKEN, self.hint) from error
