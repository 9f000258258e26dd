"""How the studio is started, opened and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from editspec.studio.api_document import api_document

PATIENCE = 600
"""Seconds after which a wait for something that has to happen is given up."""

WEB = Path(__file__).parents[2] / "editspec" / "studio" / "web"


def test_the_address_without_its_token_explains_itself(studio: Any) -> None:
    bare = TestClient(studio.client.app, base_url="http://127.0.0.1:8642")
    for query in ({}, {"token": "wrong"}):
        answer = bare.get("/", params=query)
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("text/html")
        assert "The terminal in which the studio was started shows the whole address" in answer.text
        assert "script" not in answer.text
    assert bare.get("/api/spec").headers["content-type"] == "application/json"
    hostile = bare.get("/", headers={"Host": "<b>evil"})
    assert hostile.status_code == 403
    assert "<b>" not in hostile.text


def test_the_types_of_the_page_are_those_of_the_api() -> None:
    assert (WEB / "openapi.json").read_text() == api_document(), (
        "the API has changed: python -m editspec.studio.api_document > "
        "editspec/studio/web/openapi.json, and build the page"
    )


def test_a_browser_is_opened_and_the_end_is_told(program: Path, tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser.py", tmp_path / "opened"
    browser.write_text(f"import sys\nopen({str(opened)!r}, 'w').write(sys.argv[1])\n")
    command = [program, "studio", "--port", "0", "--open"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"BROWSER": f"{sys.executable} {browser} %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().strip()
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    assert opened.read_text() == address
    assert "Ctrl+C ends the studio" in said
    assert "the draft is kept in .edits.yaml.studio" in rest
    assert process.returncode == 130


LONG_WORK = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
statistics: {samples: 64}
edits:
  - name: spires
    layer: layer6
    source: {latent: 1, mask: {box: [8, 4, 23, 27]}}
    target: {latent: 0, mask: {box: [8, 4, 23, 27]}}
    solver: {method: projected-gradient, steps: 1000000}
"""


@pytest.mark.slow
def test_an_interrupt_ends_the_work_first(tmp_path: Path) -> None:
    """A thread that computes while Python ends would end the process with words of C++."""
    (tmp_path / "edits.yaml").write_text(LONG_WORK)
    command = [sys.executable, "-m", "editspec", "studio", "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address, _, token = process.stdout.readline().strip().partition("?token=")

        def call(path: str, body: bytes | None = None) -> Any:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            asked = urllib.request.Request(f"{address}api/{path}", body, headers)
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return json.load(answer)

        job = call("execute", b'{"revision": 0}')["job"]
        while job["done"] < 3:
            job = call("spec")["job"]
            assert job, "the work has ended before it was interrupted"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "The work under way stops at its next step." in said
    assert "terminate" not in said
