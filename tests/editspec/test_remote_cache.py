"""A cache on a server, which two machines share; what comes damaged or swapped is not taken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from editspec_runtime.io import remote_cache
from tests.commands import contents, run, said


class Server(ThreadingHTTPServer):
    """Entries by their paths.

    Attributes
    ----------
    requests
        The method and the path of each request.
    token
        What it wants to see; empty where it wants nothing.
    answer
        What it does with an entry that it sends.
    elsewhere
        An address that it sends everyone to; empty where it answers itself.
    takes
        Whether it takes what is written.
    sent
        The share of an entry that it sends before it hangs up.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.entries: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.token = ""
        self.answer: Callable[[str, bytes], bytes] = lambda path, data: data
        self.elsewhere = ""
        self.takes = True
        self.sent = 1.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/team"

    def asked(self, method: str) -> set[str]:
        """The kinds of entries that were asked for by a method."""
        return {path.split("/")[2] for each, path in self.requests if each == method}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _reply(self, code: int, data: bytes = b"") -> None:
        self.server.requests.append((self.command, self.path))
        if self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere + self.path)
        elif self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.send_response(401)
            data = b""
        else:
            self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: int(len(data) * self.server.sent)])

    def do_GET(self) -> None:
        found = self.server.entries.get(self.path)
        if found is None:
            self._reply(404)
        else:
            self._reply(200, self.server.answer(self.path, found))

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.takes:
            self.server.entries[self.path] = data
        self._reply(201 if self.server.takes else 403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def start() -> Server:
        server = Server()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go on as a machine of a name, whose cache is empty at first."""

    def become(name: str, server: Server, *, writes: bool = False, token: str = "") -> None:
        monkeypatch.setenv("EDITSPEC_CACHE", str(tmp_path / f"cache of {name}"))
        monkeypatch.setenv("EDITSPEC_REMOTE", server.address)
        monkeypatch.setenv("EDITSPEC_REMOTE_WRITE", "1" if writes else "0")
        monkeypatch.setenv("EDITSPEC_REMOTE_TOKEN", token)

    monkeypatch.setattr(remote_cache, "_gone", set())
    monkeypatch.setattr(remote_cache, "_unwritable", set())
    monkeypatch.chdir(tmp_path)
    return become


@pytest.fixture
def spec(tiny_spec: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_spec(tmp_path)


def test_what_one_machine_has_computed_another_one_takes(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server = serve()
    machine("first", server, writes=True)
    first = said("build", spec, "-o", "out")["edits"][0]
    assert {"statistics", "solutions", "rules", "patches"} <= server.asked("PUT")
    built, lock = contents(Path("out")), Path(f"{spec}.lock").read_bytes()
    # By the lock: the patch itself.
    server.requests.clear()
    machine("second", server)
    assert said("build", spec, "-o", "second")["edits"][0]["status"] == "up to date"
    assert contents(Path("second")) == built
    assert server.asked("PUT") == set()
    # Without a lock: the solution.
    Path(f"{spec}.lock").unlink()
    machine("third", server)
    result = run("build", spec, "-o", "third")
    assert "solving" not in result.stderr
    assert (contents(Path("third")), Path(f"{spec}.lock").read_bytes()) == (built, lock)
    # The control: without the server it is solved.
    Path(f"{spec}.lock").unlink()
    machine("fourth", serve())
    assert "solving" in run("build", spec, "-o", "fourth").stderr
    assert first["seconds"]["solve"] > 0


def test_who_may_only_read_never_writes(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    """As a pull request does: what it computes stays with it."""
    server = serve()
    machine("fork", server)
    assert said("build", spec, "-o", "out")["edits"][0]["status"] == "new"
    assert (server.asked("PUT"), server.entries) == (set(), {})
    assert "solutions" in server.asked("GET")


def test_what_comes_damaged_or_swapped_is_not_taken(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server = serve()
    machine("first", server, writes=True)
    said("build", spec, "-o", "out")
    built = contents(Path("out"))
    statistics = next(data for path, data in server.entries.items() if "/statistics/" in path)

    def cut_off(path: str, data: bytes) -> bytes:
        return data[: len(data) // 2]

    def flipped(path: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1])

    def another(path: str, data: bytes) -> bytes:
        return statistics  # sound, and made under another name

    for number, answer in enumerate((cut_off, flipped, another)):
        server.answer = answer
        machine(f"machine-{number}", server)
        Path(f"{spec}.lock").unlink(missing_ok=True)
        result = run("build", spec, "-o", f"out-{number}")
        assert result.exit_code == 0, result.stderr
        assert "solving" in result.stderr
        assert contents(Path(f"out-{number}")) == built


def test_a_server_that_is_gone_costs_one_warning(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server = serve()
    server.shutdown()
    server.server_close()
    machine("first", server, writes=True)
    result = run("build", spec, "-o", "out")
    assert result.exit_code == 0
    assert result.stderr.count("warning: The remote cache") == 1
    assert "the connection failed or broke" in result.stderr


def test_a_server_that_dies_half_way_is_told(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server = serve()
    machine("first", server, writes=True)
    said("build", spec, "-o", "out")
    server.sent = 0.5
    machine("second", server)
    Path(f"{spec}.lock").unlink()
    result = run("build", spec, "-o", "second")
    assert (result.exit_code, "the connection failed or broke" in result.stderr) == (0, True)
    assert contents(Path("second")) == contents(Path("out"))


def test_a_server_that_takes_nothing_is_read_all_the_same(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server = serve()
    machine("first", server, writes=True)
    said("build", spec, "-o", "out")
    server.takes = False
    server.entries = {path: data for path, data in server.entries.items() if "solut" in path}
    machine("second", server, writes=True)
    Path(f"{spec}.lock").unlink()
    result = run("build", spec, "-o", "second")
    assert result.stderr.count("cannot be written: the server says 403") == 1
    assert "solving" not in result.stderr
    assert contents(Path("second")) == contents(Path("out"))


def test_a_token_is_shown_to_this_server_alone(
    spec: Path, machine: Machine, serve: Callable[[], Server]
) -> None:
    server, other = serve(), serve()
    server.token = "secret"
    machine("first", server, writes=True, token="secret")
    assert "warning" not in run("build", spec, "-o", "out").stderr
    assert server.entries
    machine("second", server, token="wrong")
    Path(f"{spec}.lock").unlink()
    assert "the server says 401" in run("build", spec, "-o", "second").stderr
    remote_cache._gone.clear()
    server.elsewhere = other.address
    machine("third", server, token="secret")
    Path(f"{spec}.lock").unlink()
    assert "the server says 302" in run("build", spec, "-o", "third").stderr
    assert other.requests == []


@pytest.mark.parametrize(
    "address",
    ["http://example.org/x", "ftp://example.org", "example.org", "https://", "https://[x"],
)
def test_a_wrong_address_is_an_error_in_words(
    address: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITSPEC_REMOTE", address)
    result = run("build", spec, "-o", tmp_path / "out")
    assert (result.exit_code, "expected https://HOST/PATH" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hunter2@localhost/x",
        "https://hunter2@localhost",
        "https://localhost/x?sig=hunter2",
        "https://user:hunter2@[localhost/x",
        "s3://user:hunter2@bucket/x",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(
    address: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITSPEC_REMOTE", address)
    result = run("build", spec, "-o", tmp_path / "out")
    assert (result.exit_code, "EDITSPEC_REMOTE_TOKEN" in result.stderr) == (2, True)
    assert "hunter2" not in result.stderr + result.stdout


def test_offline_nothing_is_asked(
    spec: Path, machine: Machine, serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    machine("first", server, writes=True)
    monkeypatch.setenv("EDITSPEC_OFFLINE", "1")
    assert run("build", spec, "-o", "out").exit_code == 0
    assert server.requests == []
