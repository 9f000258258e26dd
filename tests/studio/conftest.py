"""A studio in a project folder of its own, on Skyline: as an application to call, and as a server
to browse.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from filelock import FileLock
from PIL import Image, ImageDraw

from editspec.studio.app import make_app
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine
from editspec.studio.guard import Guard
from editspec.studio.jobs import Jobs
from editspec.studio.server import new_spec
from tests.studio.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOKEN = "t0ken"

PATIENCE = 600
"""Seconds after which a wait for something that has to happen is given up."""

PAGE = Path(__file__).parents[2] / "editspec" / "studio" / "web"


class Studio:
    """A studio that is called without a network."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs = Jobs()
        new = "" if path.exists() else new_spec("builtin:skyline", path)
        self.draft = Draft.open(path, new)
        self.engine = Engine(self.draft, self.jobs, "cpu")
        made = make_app(self.draft, self.engine, self.jobs)
        self.images = made.state.studio.images
        app = Guard(made, TOKEN, "127.0.0.1")
        self.client = TestClient(
            app, base_url="http://127.0.0.1:8642", headers={"Authorization": f"Bearer {TOKEN}"}
        )

    def call(
        self, method: str, path: str, body: Any = None, expect: int = 200, **query: Any
    ) -> Any:
        """What an endpoint answers; a body that is a mapping gets the revision that the spec is
        at.
        """
        if isinstance(body, dict) and "revision" not in body:
            body = {"revision": self.draft.revision, **body}
        answer = self.client.request(method, f"/api/{path}", json=body, params=query)
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.headers["content-type"] == "application/json" else answer

    def run(self, path: str, **body: Any) -> Any:
        """The state after a piece of work has ended."""
        self.call("POST", path, body, 202)
        assert self.jobs.wait(PATIENCE)
        return self.call("GET", "spec")

    def make_edit(
        self, number: int = 0, source: int = 1268, target: int = 1932, context: tuple[int, ...] = ()
    ) -> Any:
        """Copy, paste and context of the towers, as a hand would paint them."""
        body = {"latent": source, "mask": towers()}
        self.call("PUT", f"edits/{number}/places/source", body)
        state = self.call(
            "POST", f"edits/{number}/paste", {"latent": target, "right": 0, "down": 0}
        )
        for latent in context:
            state = self.call(
                "PUT", f"edits/{number}/places/context", {"latent": latent, "mask": towers()}
            )
        return state


def towers() -> str:
    """A mask of the tower on the left, as a data URL."""
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).rectangle((8, 8, 22, 28), fill=255)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def install_page(folder: Path) -> bool:
    """Copy the page's sources, and install their packages; return whether that is done."""
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules"))
    npm = shutil.which("npm")
    if npm is None:
        return False
    command = [npm, "ci", "--silent"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def page_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the page's sources with all that its package-lock.json names installed beside
    them: one for all processes of a run.
    """
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    folder = run / "studio" / "web"
    done = folder.with_name("installed")
    with FileLock(run / "studio.lock"):
        if not folder.exists() and install_page(folder):
            done.touch()
    if not done.exists():
        missing = (
            "the page's tools cannot be installed: Node 20 with npm and its registry are needed"
        )
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return folder


@pytest.fixture
def make_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    """Makes a studio on a spec, or on a new one; again on the same folder, as after a restart."""
    opened: list[TestClient] = []

    def make(text: str | None = None, name: str = "edits.yaml") -> Studio:
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        studio = Studio(path)
        opened.append(studio.client)
        studio.client.__enter__()
        return studio

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def studio(make_studio: Callable[..., Studio]) -> Studio:
    """A studio that was started in an empty folder."""
    return make_studio()


@pytest.fixture(scope="module")
def server(
    program: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shots: Path | None,
    browser: Browser,
    shared_cache: Path,
) -> Iterator[Served]:
    """One studio, and its page, for all tests of a file."""
    folder = tmp_path_factory.mktemp("served")
    env = os.environ | {"EDITSPEC_CACHE": str(shared_cache)}
    served = Served(program, folder, shots, browser, env=env)
    yield served
    served.page.close()
    served.stop()


@pytest.fixture(scope="session")
def shots() -> Path | None:
    """The folder that EDITSPEC_SCREENSHOTS names for pictures of the page, if it names one."""
    named = os.environ.get("EDITSPEC_SCREENSHOTS")
    if not named:
        return None
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
