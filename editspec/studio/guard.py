"""Admission to the studio: a browser on the studio's own page that has the token."""

from __future__ import annotations

import asyncio
import hmac
import html
import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from editspec_runtime.codes import Code

MAX_BODY = 32 * 2**20
"""Bytes of a request at most: a spec of the largest size, written as JSON."""

BODY_SECONDS = 60.0
"""Seconds within which the body of a request has to arrive."""

Refusal = tuple[int, str]
"""A status and a message."""

TOO_SLOW = f"A request has to arrive within {BODY_SECONDS:.0f} seconds."
TOO_LARGE = f"A request has at most {MAX_BODY} bytes."

HEADERS = {
    # The page may load nothing and talk to nobody but this server, and no page may frame it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The address of the page holds the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ENCODED_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

EXPLANATION = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>editspec studio</title>
<h1>editspec studio</h1>
<p>{message}</p>
<p>The terminal in which the studio was started shows the whole address. It ends with a token, which
keeps others out, and which is new at every start. Copy the address from there, or start the studio
with <code>--open</code>, which opens it for you.</p>
"""

OPEN = ("/static/",)
"""Paths whose content is the same for everybody and needs no token."""


@dataclass(frozen=True)
class Guard:
    """A filter that admits requests of the studio's own page with the token.

    Attributes
    ----------
    app
        The application that is guarded.
    token
        The secret of the address; it comes as ``?token=`` or as ``Authorization: Bearer``.
    host
        The name at which the server listens. Addresses count as names of this machine, too: the
        author of a foreign page can point a domain name at this machine, but not an address.
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
                message["headers"] = [*message["headers"], *ENCODED_HEADERS]
                if message["status"] in (408, 413):
                    # The rest of the request is not waited for.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        refusal = self._refuse_host(headers) or self._refuse_token(scope, headers)
        refusal = refusal or _refuse_length(headers)
        if refusal:
            is_page = scope["method"] == "GET" and scope["path"] == "/"
            answer = _explain(*refusal) if is_page else _answer(*refusal)
            await answer(scope, receive, send_guarded)
            return
        seen, arriving = 0, True
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS

        # Content-Length may be missing, so the bytes are counted as they come.
        async def receive_limited() -> Message:
            nonlocal seen, arriving
            if not arriving:  # a page that listens to events waits here until it goes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, TOO_SLOW) from error
            arriving = bool(message.get("more_body", False))
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self.app(scope, receive_limited, send_guarded)

    def _refuse_host(self, headers: Headers) -> Refusal | None:
        """Refuse a request to a foreign name (DNS rebinding) or from a foreign page."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(_read_name(host)):
            return 403, f"This is not a name of the studio: {host[:80]}"
        own_origins = (f"http://{host}".lower(), f"https://{host}".lower())
        if origin is not None and origin.lower() not in own_origins:
            return 403, f"Another page may not talk to the studio: {origin[:80]}"
        return None

    def _refuse_token(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Refuse a request from another page, or without the token."""
        # The printed address may be clicked anywhere, in a terminal or a chat. Such a link carries
        # the token, opens the page and changes nothing.
        followed = (
            headers.get("sec-fetch-mode") == "navigate"
            and scope["method"] == "GET"
            and scope["path"] == "/"
        )
        own_page = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        if not own_page and not followed:
            return 403, "Another page may not talk to the studio."
        if scope["path"].startswith(OPEN):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        given = given or headers.get("authorization", "").removeprefix("Bearer ")
        # Compared in constant time: the time of an answer must not tell how much was right.
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
    """Tell whether a name or an address reaches this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_name(host: str) -> str:
    """Read the name in a Host header, without its port and the brackets of an address."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if ":" in host:
        return host.rpartition(":")[0]
    return host


def _refuse_length(headers: Headers) -> Refusal | None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY:
        return 413, TOO_LARGE
    return None


def _explain(status: int, message: str) -> Response:
    """Answer a person who has opened the address without its token."""
    return HTMLResponse(EXPLANATION.format(message=html.escape(message)), status)


def _answer(status: int, message: str) -> JSONResponse:
    refusal = {"code": Code.USAGE, "message": message, "hint": "", "problems": []}
    return JSONResponse(refusal, status)
