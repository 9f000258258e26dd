"""A cache in a bucket, asked by boto3: what two machines share, and how each failure is told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from editspec_runtime.io import remote_cache
from tests.commands import contents, run, said

REGION = "eu-west-1"
WRITER, READER = "AKIAWRITES", "AKIAREADS"

CREDENTIAL = re.compile(r"Credential=(\w+)/\d+/([\w-]+)/s3/aws4_request")


class Bucket(ThreadingHTTPServer):
    """A server with one bucket, as far as objects are read and written by their keys.

    Attributes
    ----------
    objects
        The objects by their paths, which begin with the bucket.
    answer
        What it sends in place of an object.
    sent
        The share of what it sends before it hangs up.
    held
        The kind of entry of which it takes half, and keeps that, and waits; empty for none.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.answer: Callable[[str, bytes], bytes] = lambda path, data: data
        self.sent = 1.0
        self.held = ""
        self.holds = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def asked(self, method: str) -> list[str]:
        """The paths that were asked for by a method."""
        return [path for each, path in self.requests if each == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which says that the body of a PUT may come
    server: Bucket

    def _refuse(self, code: int, name: str) -> None:
        data = f'<?xml version="1.0"?><Error><Code>{name}</Code></Error>'.encode()
        self._reply(code, b"" if self.command == "HEAD" else data)

    def _reply(self, code: int, data: bytes = b"", share: float = 1.0) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: int(len(data) * share)])
        self.close_connection = True

    def _is_allowed(self) -> bool:
        """Whether the request is signed for this region by someone who may do this."""
        self.server.requests.append((self.command, self.path))
        found = CREDENTIAL.search(self.headers["Authorization"] or "")
        if found is None or found[1] not in (WRITER, READER):
            self._refuse(403, "InvalidAccessKeyId")
        elif found[2] != REGION:
            self._refuse(400, "AuthorizationHeaderMalformed")
        elif not self.path.startswith("/team/"):
            self._refuse(404, "NoSuchBucket")
        elif self.command == "PUT" and found[1] != WRITER:
            self._refuse(403, "AccessDenied")
        else:
            return True
        return False

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        if self.path not in self.server.objects:
            self._refuse(404, "NoSuchKey")
            return
        data = self.server.answer(self.path, self.server.objects[self.path])
        self._reply(200, data, self.server.sent)

    def do_HEAD(self) -> None:
        self._refuse(400, "")

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        if self.server.held and f"/{self.server.held}/" in self.path:
            # A worse server than S3, which keeps an object only when it is whole.
            self.server.objects[self.path] = self.rfile.read(length // 2)
            self.server.holds.set()
            self.rfile.read()
            return
        data = self.rfile.read(length)
        if self._is_allowed():
            self.server.objects[self.path] = data
            self._reply(200)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    yield server
    server.shutdown()
    server.server_close()


Machine = Callable[..., dict[str, str]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> Machine:
    """Go on as a machine of a name, whose cache is empty at first; return its environment."""
    pytest.importorskip("boto3")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)

    def become(name: str, *, key: str = READER, **variables: str) -> dict[str, str]:
        remote_cache._gone.clear()
        remote_cache._unwritable.clear()
        variables = {
            "EDITSPEC_CACHE": str(tmp_path / f"cache of {name}"),
            "EDITSPEC_REMOTE": "s3://team/edits",
            "EDITSPEC_REMOTE_WRITE": "1" if key == WRITER else "0",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "no configuration"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no credentials"),
            **variables,
        }
        for variable, value in variables.items():
            if value:
                monkeypatch.setenv(variable, value)
            else:
                monkeypatch.delenv(variable, raising=False)
        return variables

    monkeypatch.setattr(remote_cache, "_gone", set())
    monkeypatch.setattr(remote_cache, "_unwritable", set())
    return become


@pytest.fixture
def spec(tiny_spec: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_spec(tmp_path)


def build_elsewhere(
    command: Sequence[str | Path], spec: Path, out: str, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Begin a build in a process of its own."""
    return subprocess.Popen(
        [*command, "build", spec, "-o", out],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_one_machine_has_computed_another_one_takes(
    spec: Path, machine: Machine, bucket: Bucket
) -> None:
    machine("first", key=WRITER)
    assert "warning" not in run("build", spec, "-o", "out").stderr
    assert {path.split("/")[:3] == ["", "team", "edits"] for path in bucket.objects} == {True}
    kinds = {path.split("/")[3] for path in bucket.objects}
    assert {"statistics", "solutions", "rules", "patches"} <= kinds
    built = contents(Path("out"))
    bucket.requests.clear()
    machine("second")
    assert said("build", spec, "-o", "second")["edits"][0]["status"] == "up to date"
    assert contents(Path("second")) == built
    Path(f"{spec}.lock").unlink()
    machine("third")
    result = run("build", spec, "-o", "third")
    assert ("solving" in result.stderr, "warning" in result.stderr) == (False, False)
    assert contents(Path("third")) == built
    assert bucket.asked("PUT") == []
    # The control: with an empty bucket it is solved.
    bucket.objects.clear()
    Path(f"{spec}.lock").unlink()
    machine("fourth")
    result = run("build", spec, "-o", "fourth")
    assert ("solving" in result.stderr, "warning" in result.stderr) == (True, False)


def test_what_comes_damaged_or_swapped_is_not_taken(
    spec: Path, machine: Machine, bucket: Bucket
) -> None:
    machine("first", key=WRITER)
    said("build", spec, "-o", "out")
    built = contents(Path("out"))
    statistics = next(data for path, data in bucket.objects.items() if "/statistics/" in path)
    answers = {
        "cut off": lambda path, data: data[: len(data) // 2],
        "flipped": lambda path, data: data[:-1] + bytes([data[-1] ^ 1]),
        "swapped": lambda path, data: statistics,
        "empty": lambda path, data: b"",
    }
    for name, answer in answers.items():
        bucket.answer = answer
        machine(name)
        Path(f"{spec}.lock").unlink(missing_ok=True)
        result = run("build", spec, "-o", name)
        assert (result.exit_code, "solving" in result.stderr) == (0, True), name
        assert contents(Path(name)) == built


UNREACHABLE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}

FAILURES = [
    ({"EDITSPEC_REMOTE": "s3://another/edits"}, "no such bucket", "Check its name"),
    ({"key": "AKIAUNKNOWN"}, "the access key is unknown", "AWS_ACCESS_KEY_ID"),
    (
        {"key": "", "AWS_SECRET_ACCESS_KEY": ""},
        "there are no credentials",
        "Set AWS_ACCESS_KEY_ID",
    ),
    ({"AWS_SECRET_ACCESS_KEY": ""}, "the credentials are not whole", "AWS_SECRET_ACCESS_KEY"),
    ({"AWS_PROFILE": "nobody"}, "there is no such profile", "AWS_PROFILE"),
    ({"AWS_DEFAULT_REGION": "us-east-2"}, "in another region", "AWS_DEFAULT_REGION"),
    ({"AWS_DEFAULT_REGION": "no region"}, "the region is not one", "AWS_DEFAULT_REGION"),
    (UNREACHABLE, "the connection failed or broke", "AWS_ENDPOINT_URL"),
    ({"AWS_ENDPOINT_URL": "nonsense"}, "the endpoint is not an address", "AWS_ENDPOINT_URL"),
]


@pytest.mark.parametrize(("variables", "reason", "hint"), FAILURES)
def test_what_is_wrong_is_told_once_and_the_work_goes_on(
    spec: Path, machine: Machine, variables: dict[str, str], reason: str, hint: str
) -> None:
    machine("first", **variables)
    began = time.monotonic()
    result = run("statistics", spec)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("warning: The remote cache s3://") == 1
    assert reason in result.stderr
    assert hint in result.stderr
    assert time.monotonic() - began < 300  # seconds, of which an idle machine needs few


def test_a_server_that_dies_half_way_is_told(spec: Path, machine: Machine, bucket: Bucket) -> None:
    machine("first", key=WRITER)
    said("build", spec, "-o", "out")
    bucket.sent = 0.5
    machine("second")
    Path(f"{spec}.lock").unlink()
    result = run("build", spec, "-o", "second")
    assert (result.exit_code, "solving" in result.stderr) == (0, True)
    assert "the connection failed or broke" in result.stderr
    assert contents(Path("second")) == contents(Path("out"))


def test_who_may_only_read_is_told_and_reads(spec: Path, machine: Machine, bucket: Bucket) -> None:
    machine("first", key=WRITER)
    said("build", spec, "-o", "out")
    missing = next(path for path in bucket.objects if "/statistics/" in path)
    del bucket.objects[missing]
    machine("second", EDITSPEC_REMOTE_WRITE="1")
    Path(f"{spec}.lock").unlink()
    result = run("statistics", spec)
    assert result.stderr.count("cannot be written: the credentials may not do this") == 1
    assert "s3:PutObject" in result.stderr
    assert "unset EDITSPEC_REMOTE_WRITE" in result.stderr
    result = run("build", spec, "-o", "second")
    assert ("solving" in result.stderr, "warning" in result.stderr) == (False, False)
    assert contents(Path("second")) == contents(Path("out"))
    assert missing not in bucket.objects


@pytest.mark.slow
def test_two_machines_at_once_and_one_that_is_killed(
    program: Path, spec: Path, machine: Machine, bucket: Bucket
) -> None:
    bucket.held = "solutions"
    python = [sys.executable, "-m", "editspec"]  # which is the process that is killed
    killed = build_elsewhere(python, spec, "killed", machine("killed", key=WRITER))
    assert bucket.holds.wait(600)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (half,) = (path for path in bucket.objects if "/solutions/" in path)
    bucket.held = ""
    both = [
        build_elsewhere([program], spec, name, machine(name, key=WRITER))
        for name in ("first", "second")
    ]
    for process in both:
        _, errors = process.communicate()
        assert (process.returncode, b"warning" in errors) == (0, False), errors
    built = contents(Path("first"))
    assert contents(Path("second")) == built
    machine("third")
    Path(f"{spec}.lock").unlink()
    result = run("build", spec, "-o", "third")
    assert ("solving" in result.stderr, "warning" in result.stderr) == (False, False)
    assert contents(Path("third")) == built
    assert bucket.objects[half]


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:/team", "s3:team", "s3://Team/x", "s3://te/x", "s3://team/a?b", "s3://a:9000/x"],
)
def test_a_wrong_address_is_an_error_in_words(
    address: str, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITSPEC_REMOTE", address)
    result = run("statistics", spec)
    assert (result.exit_code, "expected s3://BUCKET/PREFIX" in result.stderr) == (2, True)
