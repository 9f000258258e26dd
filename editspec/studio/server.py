"""From a spec's name to a studio that is served, until it is interrupted."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from editspec.commands.inspect import known_architecture
from editspec.studio.draft import NEW, Draft, held, usual
from editspec.studio.engine import Engine
from editspec.studio.guard import Guard
from editspec.studio.jobs import Jobs
from editspec.studio.routers import make_app
from editspec_runtime.errors import UsageError
from editspec_runtime.families.checkpoints import read_checkpoint, weights_path
from editspec_runtime.io.downloads import is_remote

PORT = 8642


def new_spec(model: str, path: Path) -> str:
    """The text of a spec that edits nothing yet. Raises `EditError` where the weights cannot be
    used.
    """
    place = weights_path(model, Path())
    architecture = known_architecture(read_checkpoint(place), place)
    named = (
        model
        if model.startswith("builtin:") or is_remote(model)
        else Path(os.path.relpath(place, path.parent)).as_posix()
    )
    layer, solver = usual(architecture)
    return NEW.format(
        family=architecture.family, weights=json.dumps(named), layer=layer, solver=solver
    )


def serve(
    path: Path,
    model: str | None,
    *,
    host: str,
    port: int | None,
    device: str,
    announce: Callable[[str], None],
) -> None:
    """Open the spec at `path`, or a new one of `model`, and serve it until interrupted.

    Raises
    ------
    SpecError, EditError
        The spec cannot be read, its model cannot be drawn with, or the port is taken.
    """
    if path.exists() and model is not None:
        raise UsageError(
            f"{path} has a model of its own.",
            "Leave --model out, or name a SPEC that is not there yet.",
        )
    path = path.absolute()
    new = new_spec(model or "builtin:skyline", path) if not path.exists() else ""
    with _socket(host, port) as listening, held(path):
        draft, jobs = Draft.open(path, new), Jobs()
        engine = Engine(draft, jobs, device)
        engine.base()
        token = secrets.token_urlsafe(24)
        app = Guard(make_app(draft, engine, jobs), token, host)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=1
        )
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listening.getsockname()[1]}/?token={token}")
        _Server(config, jobs).run([listening])


class _Server(uvicorn.Server):
    """A server that ends the streams of events when it is told to stop: they would keep it from
    stopping.
    """

    def __init__(self, config: uvicorn.Config, jobs: Jobs) -> None:
        super().__init__(config)
        self.jobs = jobs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop."""
        self.jobs.tell({"event": "stopping"})
        super().handle_exit(sig, frame)


def _socket(host: str, port: int | None) -> socket.socket:
    """A socket that listens: at the port that was asked for, or at the usual one, or at any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in [PORT, 0] if port is None else [port]:
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
        f"Nothing can listen at {host}:{number}: {failure.strerror or failure}.",
        "Give another --port.",
    )
