"""Weights that lie elsewhere, from a server that runs here and misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io import downloads
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.downloads import Remote, fetch
from editspec_runtime.io.places import weights_path
from tests.commands import run

REVISION = "0123456789abcdef0123456789abcdef01234567"


def remote(address: str, pin: str | None = None) -> Remote:
    """The file at an address, kept in the cache of the test."""
    return downloads.parse_remote(address, default_cache(), pin)


class Server(ThreadingHTTPServer):
    """Serves one file under several paths.

    Attributes
    ----------
    content
        The file.
    asked
        Paths and ranges in the order in which they were asked for.
    break_after
        Bytes after which the line breaks; None where it holds.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.asked: list[tuple[str, str | None]] = []
        self.break_after: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """A server of files, redirects and a hub.

    ``/file`` knows ranges, ``/plain`` does not; ``/moved`` and ``/away`` redirect;
    ``/org/…`` is a hub.
    """

    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        range_ = self.headers.get("Range")
        self.server.asked.append((self.path, range_))
        content = self.server.content
        start = 0
        if self.path.startswith(("/moved", "/away")):
            self.send_response(302)
            port = self.server.server_port
            self.send_header(
                "Location",
                "/file.safetensors" if self.path[1] == "m" else f"http://localhost:{port}/file",
            )
            self.end_headers()
            return
        if not self.path.startswith(("/file", "/plain", f"/org/repo/resolve/{REVISION}/weights")):
            self.send_error(404)
            return
        if range_ and not self.path.startswith("/plain"):
            start = int(range_.removeprefix("bytes=").partition("-")[0])
            if start > len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.path.startswith("/org"):
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            limit = self.server.break_after
            self.wfile.write(content[start : len(content) if limit is None else start + limit])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tiny: dict[str, Tensor]) -> Iterator[Server]:
    server = Server(save(tiny))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sha256(server: Server) -> str:
    return hashlib.sha256(server.content).hexdigest()


def files(cache: Path) -> list[str]:
    found = [path for path in cache.rglob("*") if path.is_file() and path.name != "lock"]
    # The marks of running processes are no downloads.
    return sorted(path.name for path in found if path.parent.name != "running")


def test_a_file_is_fetched_once_with_progress(server: Server, sha256: str, own_cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        path = fetch(
            remote(f"{server.address}/file.safetensors#sha256={sha256}"),
            lambda *done: seen.append(done),
        )
        assert path.read_bytes() == server.content
    assert len(server.asked) == 1
    assert seen[-1] == (len(server.content), len(server.content))
    assert files(own_cache) == ["file.safetensors"]
    assert read_weights(path).digest()


@pytest.mark.parametrize("path", ["file.safetensors", "plain.safetensors"])
def test_a_download_goes_on_where_it_broke(
    server: Server, sha256: str, own_cache: Path, path: str
) -> None:
    source = remote(f"{server.address}/{path}", f"sha256:{sha256}")
    server.break_after = 1000
    with pytest.raises(FileError, match=r"1000 .*bytes.*\n.*What arrived \(1000 bytes\) is kept"):
        fetch(source)
    assert not source.path.exists()
    server.break_after = None
    assert fetch(source).read_bytes() == server.content
    assert server.asked[-1] == (f"/{path}", "bytes=1000-")
    assert files(own_cache) == [path]


def test_another_file_is_thrown_away(server: Server, own_cache: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(FileError, match=rf"expected sha256 {wrong}, found [1-9a-f]"):
        fetch(remote(f"{server.address}/file.safetensors", f"sha256:{wrong}"))
    assert files(own_cache) == []


def test_what_an_earlier_try_fetched_of_another_file_is_thrown_away(
    server: Server, sha256: str
) -> None:
    source = remote(f"{server.address}/file.safetensors", f"sha256:{sha256}")
    source.path.parent.mkdir(parents=True)
    part = source.path.with_name(".file.safetensors.partial")
    for left in (b"x" * (len(server.content) + 5), b"x" * 100):
        part.write_bytes(left)
        with pytest.raises(FileError, match=r"is shorter than|gave another file"):
            fetch(source)
        assert not part.exists()
    assert fetch(source).read_bytes() == server.content


def test_redirections_stay_on_the_host(server: Server, sha256: str) -> None:
    assert fetch(remote(f"{server.address}/moved#sha256={sha256}")).read_bytes() == server.content
    with pytest.raises(FileError, match=r"redirects elsewhere, to http://localhost:\d+/file"):
        fetch(remote(f"{server.address}/away.safetensors", f"sha256:{'1' * 64}"))


def test_what_cannot_be_fetched_is_named(
    server: Server, sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileError, match="the server says 404"):
        fetch(remote(f"{server.address}/other", f"sha256:{sha256}"))
    with pytest.raises(FileError, match="cannot be fetched"):
        fetch(remote("http://127.0.0.1:9/file", f"sha256:{sha256}"))
    for address, message in (
        (f"{server.address}/file", "has no digest"),
        ("http://example.org/file", "is not encrypted"),
        ("https:///file", "names no host"),
        (f"{server.address}/file#sha256=12", "expected sha256= and 64"),
        ("hf://file", "is not a file of the hub"),
    ):
        with pytest.raises(FileError, match=message):
            remote(address)
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    with pytest.raises(FileError, match=r"not in the cache.*EDITSPEC_OFFLINE.*\n.*put the file at"):
        fetch(remote(f"{server.address}/file.safetensors", f"sha256:{sha256}"))


def test_a_spec_is_built_from_afar(
    server: Server, sha256: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    edit = {
        "name": "e",
        "layer": "layer6",
        "source": place,
        "target": {**place, "latent": 2},
        "solver": "direct",
    }
    model = {
        "family": "stylegan2",
        "weights": f"{server.address}/file.safetensors",
        "digest": f"sha256:{sha256}",
    }
    spec: dict[str, Any] = {
        "version": 1,
        "model": model,
        "statistics": {"samples": 32},
        "edits": [edit],
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))

    assert run("validate", "spec.yaml").exit_code == 0
    assert files(own_cache) == []  # validating fetches nothing
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    result = run("compile", "spec.yaml", "-o", "out")
    assert (result.exit_code, "is not in the cache" in result.stderr) == (1, True)
    monkeypatch.delenv("EDITSPEC_OFFLINE")
    result = run("compile", "spec.yaml", "-o", "out")
    assert result.exit_code == 0
    assert f"fetching {server.address}/file.safetensors: {len(server.content)}/" in result.stderr
    assert run("inspect", f"{server.address}/file.safetensors#sha256={sha256}").exit_code == 0
    assert len(server.asked) == 1
    spec["edits"][0]["layer"] = "layer66"  # now that it is here, validate looks into it
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    assert run("validate", "spec.yaml").exit_code == 2
    del spec["model"]["digest"]
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    assert "has no digest" in run("validate", "spec.yaml").stderr


def test_the_hub(server: Server, sha256: str, tmp_path: Path, own_cache: Path) -> None:
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from editspec_runtime.io.places import weights_path\n"
        "from editspec_runtime.io.cache import default_cache\n"
        "from editspec_runtime.errors import FileError\n"
        "try:\n    path = weights_path(sys.argv[1], Path(), cache=default_cache())\n"
        "    print(json.dumps(str(path)))\n"
        "except FileError as error:\n    print(json.dumps({'error': str(error)}))\n"
    )

    def found(address: str, **environment: str) -> Any:
        command = [sys.executable, "-c", code, address]
        own = {
            "HF_ENDPOINT": server.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path),
            **environment,
        }
        output = subprocess.run(
            command, env=os.environ | own, check=True, capture_output=True
        ).stdout
        return json.loads(output)

    address = f"hf://org/repo/weights/a.safetensors@{REVISION}"
    assert "is not in the cache" in found(address, EDITSPEC_OFFLINE="1")["error"]
    path = Path(found(address))
    assert path.name == "a.safetensors"
    assert path.read_bytes() == server.content
    asked = len(server.asked)
    assert Path(found(address, EDITSPEC_OFFLINE="1")) == path
    assert len(server.asked) == asked
    assert "cannot be fetched" in found(f"hf://org/repo/none.pt@{REVISION}")["error"]
    assert "gave another file" in found(f"{address}#sha256={'0' * 64}")["error"]
    assert Path(found(f"{address}#sha256={sha256}")).read_bytes() == server.content


def test_a_path_is_a_path() -> None:
    assert weights_path("hf/model.pt", Path("x"), cache=default_cache()) == Path("x/hf/model.pt")


def test_weights_in_the_cache_are_checked_when_they_are_read(
    server: Server, sha256: str, own_cache: Path
) -> None:
    source = remote(f"{server.address}/file.safetensors#sha256={sha256}")
    path = fetch(source)
    assert fetch(source) == path
    times = path.stat()
    poisoned = bytearray(path.read_bytes())
    poisoned[-1] ^= 1
    path.write_bytes(poisoned)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for fetching in (True, False):
        with pytest.raises(FileError, match="is not the file that was fetched") as error:
            weights_path(
                f"{source.address}#sha256={sha256}",
                Path(),
                cache=default_cache(),
                fetching=fetching,
            )
        assert str(path) in str(error.value)
    path.unlink()
    assert fetch(source).read_bytes() == server.content


def test_without_a_cache_weights_are_fetched_all_the_same(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    for place in ("file", "link"):
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / place))
        server.content, server.asked = place.encode(), []
        sha256 = hashlib.sha256(server.content).hexdigest()
        source = remote(f"{server.address}/file.safetensors#sha256={sha256}")
        for _ in range(2):
            assert fetch(source).read_bytes() == server.content
        said = capsys.readouterr().err
        assert said.count("warning:") == 1
        assert str(tmp_path / place) in said
        assert len(server.asked) == 1


def test_a_disk_that_fills_up_is_no_broken_connection(
    server: Server, sha256: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: FileIO, block: bytes) -> None:
        if str(own_cache) in str(file.name):
            raise downloads.CacheUnwritable("no space left on device")
        append(file, block)

    append = downloads._append
    monkeypatch.setattr(downloads, "_append", refuse)
    path = fetch(remote(f"{server.address}/file.safetensors#sha256={sha256}"))
    assert path.read_bytes() == server.content
    assert not path.is_relative_to(own_cache)
    assert files(own_cache) == []
