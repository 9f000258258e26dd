"""Who may talk to the studio: this machine's browser, on the page of the studio itself, with the
token.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 32 * 2**20
"""Bytes of a request at most: a spec of the largest size, written as JSON."""

TOO_LARGE = f"A request has at most {MAX_BODY} bytes."

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

OPEN = ("/static/",)
"""What is the same for everybody and needs no token."""


@dataclass(frozen=True)
class Guard:
    """Lets through what comes with the token, from the studio's own page, under a name that is this
    machine's.

    Attributes
    ----------
    app
        What is guarded.
    token
        Comes as ``?token=`` or as ``Authorization: Bearer``.
    host
        The name that the server was told to listen on. Addresses count as this machine, too: a
        foreign page can have a name of its own lead here, but no number.
    """

    app: ASGIApp
    token: str
    host: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, 401 or 413, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in HEADERS.items()),
                ]
            await send(message)

        if refusal := self._refusal(scope, headers):
            await _answer(*refusal)(scope, receive, send_guarded)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            await _answer(413, TOO_LARGE)(scope, receive, send_guarded)
            return
        seen = 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self.app(scope, receive_limited, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(_name_of(host)):
            return 403, f"This is no name of the studio: {host[:80]}"
        if origin is not None and origin.lower() not in (
            f"http://{host}".lower(),
            f"https://{host}".lower(),
        ):
            return 403, f"Another page may not talk to the studio: {origin[:80]}"
        # A link to the page itself is fine, from wherever the printed address was clicked: it
        # carries the token.
        followed = (
            headers.get("sec-fetch-mode") == "navigate"
            and scope["method"] == "GET"
            and scope["path"] == "/"
        )
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed:
            return 403, "Another page may not talk to the studio."
        if scope["path"].startswith(OPEN):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        given = given or headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
            return 401, "Open the address that editspec studio has printed: it holds the token."
        return None

    def _is_own(self, name: str) -> bool:
        if name in ("localhost", self.host.lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and the brackets of an address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message, "hint": "", "problems": []}, status)
