"""Builds on the hub: pushed to a local server that answers as the hub does, and fetched from it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from tests.commands import run, said

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A hub: the files of one repository, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []
        self.is_closed = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's interface that pushing and fetching need."""

    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if self.server.is_closed:
            self.send_error(403)
        elif path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/org/repo"})
        elif path == "/api/validate-yaml":  # the head of a card
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/models/org/repo/preupload/main":
            asked = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"], **modes} for file in asked]})
        elif path == "/api/models/org/repo/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/org/repo/commit/{COMMIT}"
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.send_file(body=False)

    def do_GET(self) -> None:
        self.send_file(body=True)

    def send_file(self, *, body: bool) -> None:
        name = unquote(urlsplit(self.path).path).partition("/org/repo/resolve/")[2]
        content = self.server.files.get(name.partition("/")[2])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, to which the library of the hub speaks."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_spec: Callable[..., Path]) -> Path:
    """A folder with the build of two edits in ``out``."""
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path, edits=2)
    said("build", "spec.yaml", "-o", "out")
    return tmp_path


def test_a_build_goes_to_the_hub_and_comes_back(hub: Hub) -> None:
    Path("out/notes.txt").write_text("mine")
    said("card", "out")
    pushed = said("push", "out", "hf://org/repo")
    assert pushed["commit"].endswith(COMMIT)
    asked = hub.made[0]
    assert asked.get("private") is True or asked["visibility"] == "private"  # by version
    assert sorted(hub.files) == [
        "README.md",
        "manifest.json",
        "patches/01-edit-0.safetensors",
        "patches/02-edit-1.safetensors",
    ]
    assert hub.files["README.md"] == Path("out/README.md").read_bytes()
    base = ["--model", "tiny.safetensors"]
    ours = said("apply", "out", *base, "-o", "ours.safetensors")["digest"]
    theirs = said("apply", "hf://org/repo", *base, "-o", "theirs.safetensors")["digest"]
    assert ours == theirs
    assert said("verify", "hf://org/repo", *base)["verified"]
    first, second = (f"hf://org/repo/{name}" for name in sorted(hub.files) if "patches" in name)
    applied = said("apply", first, f"{second}@main", *base, "--dry-run")["digest"]
    assert applied == ours
    # A patch that is not what it says is refused, wherever it comes from.
    hub.files["patches/03-swapped.safetensors"] = hub.files["patches/01-edit-0.safetensors"]
    swapped = "hf://org/repo/patches/03-swapped.safetensors"
    assert run("apply", first, swapped, *base, "--dry-run").exit_code == 1


def test_what_is_of_an_earlier_build_is_not_pushed(
    hub: Hub, tmp_path: Path, tiny_spec: Callable[..., Path]
) -> None:
    said("build", "spec.yaml", "-o", "out", "--provenance")
    said("card", "out")
    make = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
    subprocess.run(make.split(), check=True, capture_output=True)
    said("sign", "out", "--key", "key.pem")
    said("push", "out", "hf://org/repo")
    assert {"model.sig", "provenance.json"} <= hub.files.keys()
    hub.files.clear()
    said("build", tiny_spec(tmp_path, edits=2, steps=4), "-o", "out", "--provenance")
    result = run("push", "out", "hf://org/repo")
    assert (result.exit_code, "is the card of another build" in result.stderr) == (1, True)
    said("card", "out")
    result = run("push", "out", "hf://org/repo")
    assert (result.exit_code, "is the signature of another build" in result.stderr) == (1, True)
    assert "02-edit-1" in result.stderr
    assert hub.files == {}
    said("sign", "out", "--key", "key.pem")
    Path("out/README.md").write_text("A card of my own.")
    said("push", "out", "hf://org/repo")
    assert hub.files


def test_a_manifest_of_others_leads_nowhere_else(hub: Hub) -> None:
    listed = ["../x.safetensors", "patches/../y.safetensors", "rules/z.safetensors", 3]
    hub.files["manifest.json"] = json.dumps({"files": listed}).encode()
    result = run("apply", "hf://org/repo", "--model", "tiny.safetensors", "--dry-run")
    assert (result.exit_code, "lists no patches" in result.stderr) == (1, True)


@pytest.mark.parametrize("address", ["org/repo", "hf://org", "hf://org/repo/x/y", "https://a/b"])
def test_an_address_that_is_none_pushes_nothing(address: str, hub: Hub) -> None:
    result = run("push", "out", address)
    assert (result.exit_code, "is not a repository of the hub" in result.stderr) == (2, True)
    assert not hub.made


def test_a_hub_that_refuses_is_told_in_words(hub: Hub) -> None:
    hub.is_closed = True
    result = run("push", "out", "hf://org/repo")
    assert (result.exit_code, "cannot be pushed to the hub" in result.stderr) == (1, True)
    assert "your login" in result.stderr


def test_a_folder_without_patches_is_not_pushed(hub: Hub) -> None:
    Path("empty").mkdir()
    assert run("push", "empty", "hf://org/repo").exit_code == 2
    assert not hub.made
