"""The comment on a pull request, written to a server that answers as GitHub's does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

COMMENTS = "/repos/owner/models/issues/12/comments"


class GitHub(ThreadingHTTPServer):
    """The part of GitHub that the comment needs, with the comments of one pull request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.may_write = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, login: str, body: str) -> None:
        number = len(self.comments) + 100
        url = f"{self.address}/repos/owner/models/issues/comments/{number}"
        self.comments.append({"url": url, "user": {"login": login}, "body": body})


class Handler(BaseHTTPRequestHandler):
    server: GitHub

    def _answer(self, content: Any, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _content(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if getattr(self, "command", None):
            self.server.requests.append(self.command)

    def do_GET(self) -> None:
        found = re.fullmatch(rf"{COMMENTS}\?per_page=100&page=(\d+)", self.path)
        assert found is not None, self.path
        begin = 100 * (int(found[1]) - 1)
        self._answer(self.server.comments[begin : begin + 100])

    def do_POST(self) -> None:
        content = self._content()
        if self.path == "/graphql":
            assert self.headers["Authorization"] == "Bearer secret"
            self._answer({"data": {"viewer": {"login": "github-actions[bot]"}}})
        elif not self.server.may_write:
            self._answer({"message": "Resource not accessible by integration"}, 403)
        else:
            assert self.path == COMMENTS
            self.server.add("github-actions[bot]", content["body"])
            self._answer(self.server.comments[-1], 201)

    def do_PATCH(self) -> None:
        content = self._content()
        (comment,) = [one for one in self.server.comments if one["url"].endswith(self.path)]
        comment["body"] = content["body"]
        self._answer(comment)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def github() -> Iterator[GitHub]:
    server = GitHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def comment(
    github: GitHub, folder: Path, summary: str | None, event: Any = None, **changes: str
) -> tuple[int, str]:
    """Run the step of action.yml that comments; its exit code, and what it says."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Comment"]
    assert (step["if"], step["continue-on-error"]) == ("inputs.comment == 'true'", True)
    if summary is not None:
        (folder / "summary.md").write_text(summary)
    pull_request = {"number": 12, "head": {"sha": "0a" * 20}}
    (folder / "event.json").write_text(json.dumps(event or {"pull_request": pull_request}))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_API_URL": github.address,
        "GITHUB_GRAPHQL_URL": f"{github.address}/graphql",
        "GITHUB_SERVER_URL": "https://example.org",
        "GITHUB_REPOSITORY": "owner/models",
        "GITHUB_RUN_ID": "7",
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "OUT": str(folder),
        "ADDRESS": "",
        "ARTIFACT": "https://example.org/artifact",
        "NAME": "editspec",
        "TOKEN": "secret",
    }
    assert set(step["env"]) < set(environment)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(
        command, env=environment | changes, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_a_pull_request_has_one_comment_that_is_updated(github: GitHub, tmp_path: Path) -> None:
    # Others write comments, too: many, and one that pretends to be ours.
    for number in range(120):
        github.add("someone", f"Comment {number}")
    github.add("someone", "<!-- editspec editspec -->\nAll is well")
    assert comment(github, tmp_path, "## `lit.yaml`: passed\n") == (0, "comment written\n")
    (ours,) = [one for one in github.comments if one["user"]["login"] == "github-actions[bot]"]
    assert ours["body"].startswith("<!-- editspec editspec -->\n")
    assert "## `lit.yaml`: passed" in ours["body"]
    assert (
        f"Of {'0a' * 20}, [this run](https://example.org/owner/models/actions/runs/7)"
        in (ours["body"])
    )
    assert "[All files of this run](https://example.org/artifact)" in ours["body"]
    before = [one["body"] for one in github.comments[:-1]]
    assert comment(github, tmp_path, "## `lit.yaml`: failed\n") == (0, "comment updated\n")
    assert [one["body"] for one in github.comments[:-1]] == before
    assert "## `lit.yaml`: failed" in ours["body"]
    assert "passed" not in ours["body"]
    # Another use of the action in one workflow has a comment of its own.
    assert comment(github, tmp_path, "other\n", NAME="faces")[1] == "comment written\n"
    assert len(github.comments) == len(before) + 2


def test_work_that_could_not_begin_replaces_what_was_said(github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    comment(github, tmp_path / "first", "## `lit.yaml`: passed\n")
    assert comment(github, tmp_path / "second", None) == (0, "comment updated\n")
    assert "passed" not in github.comments[0]["body"]
    assert (
        "could not begin: [the log](https://example.org/owner/models/actions/runs/7)"
        in (github.comments[0]["body"])
    )


def test_a_long_summary_is_cut_off_after_a_line(github: GitHub, tmp_path: Path) -> None:
    assert comment(github, tmp_path, "0123456789\n" * 10_000)[0] == 0
    body = github.comments[0]["body"]
    assert len(body) < 65_536
    lines = [line for line in body.splitlines() if line.startswith("0")]
    assert set(lines) == {"0123456789"}
    assert len(lines) > 5_000
    assert "The rest is in [the summary of the run](" in body


def test_a_token_that_may_not_write_is_named(github: GitHub, tmp_path: Path) -> None:
    github.may_write = False
    code, said = comment(github, tmp_path, "## `lit.yaml`: passed\n")
    assert (code, "the job needs `pull-requests: write`" in said) == (1, True)
    address = f"http://127.0.0.1:{free_port()}"
    code, said = comment(github, tmp_path, "text\n", GITHUB_GRAPHQL_URL=address)
    assert (code, "GitHub does not answer as it should" in said) == (1, True)


def free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        return server.server_port


def test_a_push_has_nothing_to_comment_on(github: GitHub, tmp_path: Path) -> None:
    code, said = comment(github, tmp_path, "text\n", event={"head_commit": {}})
    assert (code, "of no pull request" in said) == (0, True)
    assert github.requests == []
