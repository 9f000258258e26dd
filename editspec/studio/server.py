"""The server: from a spec's name to a studio that runs until it is interrupted."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from editspec.engine.named_model import spec_of_model
from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.session import BuildSession
from editspec.studio.app import make_app
from editspec.studio.connections import LimitedProtocol
from editspec.studio.draft import NEW_SPEC, Draft
from editspec.studio.draft_store import lock_spec, remove_abandoned_parts, store_folder
from editspec.studio.engine import Engine
from editspec.studio.guard import Guard
from editspec.studio.jobs import Jobs
from editspec.studio.modality_registry import studio_modality_of
from editspec.worlds.registry import DEFAULT_WEIGHTS
from editspec_compiler.document import parse
from editspec_runtime.core.progress import no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.downloads import is_remote

PORT = 8642


def new_spec(model: str, path: Path, module: str | None = None) -> str:
    """Write a spec for `model`, whose network is made by `module`, that edits nothing yet.

    Raises `EditError` where the weights cannot be used.
    """
    place = locate_weights(model, Path())
    if module is None:
        architecture = find_architecture(read_weights(place), place)
    else:
        loaded = spec_of_model(str(place), module=module, folder=path.parent)
        session = BuildSession.of(loaded, "auto", no_progress, needs_edits=False)
        architecture = session.current_model().architecture
    named = model
    if not model.startswith("builtin:") and not is_remote(model):
        named = Path(os.path.relpath(place, path.parent)).as_posix()
    code = "" if module is None else f", module: {json.dumps(module)}"
    proposed = studio_modality_of(architecture.family).new_edit(architecture)
    fields = [f"    {key}: {_quote(value)}\n" for key, value in proposed.items()]
    return NEW_SPEC.format(
        family=architecture.family,
        weights=json.dumps(named),
        code=code,
        fields="".join(fields),
    )


def _quote(value: Any) -> Any:
    """A value as a YAML text: modules of a sequence have numbers as names."""
    return value if parse(f"key: {value}").data["key"] == value else json.dumps(value)


def serve(
    path: Path,
    model: str | None,
    *,
    module: str | None = None,
    host: str,
    port: int | None,
    device: str,
    announce: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Serve the spec at `path`, or a new one of `model` (and `module`), until interrupted.

    `announce` is called with the address, which holds the token, and `tell` with words about it.

    Raises
    ------
    SpecError, EditError
        The spec cannot be read, its model cannot be drawn with, or the port is taken.
    """
    if path.exists() and (model or module):
        raise UsageError(
            f"{path} has a model of its own.",
            "Leave --model and --module out, or name a SPEC that is not there yet.",
        )
    path = path.absolute()
    new = ""
    if not path.exists():
        new = new_spec(model or DEFAULT_WEIGHTS, path, module)
    with _listen(host, port) as listening, lock_spec(path):
        remove_abandoned_parts(path)
        draft, jobs = Draft.open(path, new), Jobs()
        engine = Engine(draft, jobs, device)
        engine.base()  # Errors of the weights end the command, not a request.
        token = secrets.token_urlsafe(24)
        app = Guard(make_app(draft, engine, jobs), token, host)
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        try:
            address = f"{_name_for_browsers(host)}:{listening.getsockname()[1]}"
            announce(f"http://{address}/?token={token}")
            _Server(config, jobs, tell).run([listening])
        finally:
            # Python ends threads in the midst of what they compute, which ends the process with
            # words of the C++ library. The work stops at its next report.
            jobs.cancel()
            jobs.wait()
            tell(_say_farewell(draft))


def _name_for_browsers(host: str) -> str:
    """Name a host as an address does; all addresses of this machine are ``localhost``."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _say_farewell(draft: Draft) -> str:
    """Say at the end of the studio where the work is."""
    if draft.is_saved:
        return f"The studio has ended. {draft.file} is saved."
    folder = store_folder(draft.path).name
    return f"The studio has ended. {draft.file} is not saved: the draft is kept in {folder}."


class _Server(uvicorn.Server):
    """A server that ends the streams of events when it is told to stop.

    An open stream would keep the server from stopping.
    """

    def __init__(self, config: uvicorn.Config, jobs: Jobs, tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self.jobs, self.tell = jobs, tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and only then say how it ends: Python can lose an earlier interrupt."""
        await super().startup(sockets)
        self.tell("Open this address in a browser. Ctrl+C ends the studio.")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that work stops while it is under way: the end of the application cancels it."""
        if self.jobs.job is not None:
            self.tell("The work under way stops at its next step.")
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Tell the pages, and stop."""
        self.jobs.tell({"event": "stopping"})
        super().handle_exit(sig, frame)


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen at `port`; where it is None, at the usual port or else at any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    numbers = [PORT, 0] if port is None else [port]
    for number in numbers:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen(128)
        except OSError as error:
            listening.close()
            failure = error
        else:
            return listening
    raise UsageError(
        f"Nothing can listen at {host}:{number}.",
        "Give another --port, or an address of this machine as --host.",
    ) from failure
