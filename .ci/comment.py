"""Write a summary as a comment on the pull request of a run, or update the one that is there.

Takes the summary on stdin, NAME (one comment for each), TOKEN, and what the runner gives. There is
one comment however often the workflow runs: it begins with a marker, and only a comment by the
same account counts, as anyone may write a marker. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LONGEST = 60_000
"""The most characters of a summary in a comment, which may have 65,536."""

SECONDS = 30
"""The most seconds that an answer may take."""


def ask(method: str, address: str, content: dict[str, Any] | None = None) -> Any:
    """Send a request to GitHub, and return its answer."""
    request = urllib.request.Request(
        address,
        method=method,
        data=None if content is None else json.dumps(content).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['TOKEN']}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def find_comment(comments: str, marker: str) -> str | None:
    """The address of our comment; None where there is none yet."""
    said = ask("POST", os.environ["GITHUB_GRAPHQL_URL"], {"query": "query { viewer { login } }"})
    own = account(said["data"]["viewer"]["login"])
    page = 1
    while True:
        found = ask("GET", f"{comments}?per_page=100&page={page}")
        for comment in found:
            is_ours = account(comment["user"]["login"]) == own
            if is_ours and comment["body"].startswith(marker):
                return str(comment["url"])
        if len(found) < 100:
            return None
        page += 1


def account(login: str) -> str:
    """The name of an account; a part of GitHub's interface marks those of programs."""
    return login.removesuffix("[bot]")


def shorten(text: str, run: str) -> str:
    """A summary that fits into a comment, cut off after a whole line."""
    if len(text) <= LONGEST:
        return text
    kept = text[: text.rindex("\n", 0, LONGEST)]
    return f"{kept}\n\nThe rest is in [the summary of the run]({run}).\n"


def main() -> int:
    """Write the comment."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text("utf-8"))
    if "pull_request" not in event:
        print("this run is of no pull request: there is nothing to comment on")
        return 0
    number, head = event["pull_request"]["number"], event["pull_request"]["head"]["sha"]
    repository = os.environ["GITHUB_REPOSITORY"]
    run = (
        f"{os.environ['GITHUB_SERVER_URL']}/{repository}/actions/runs/{os.environ['GITHUB_RUN_ID']}"
    )
    marker = f"<!-- editspec {os.environ['NAME']} -->"
    text = sys.stdin.read() or f"The work could not begin: [the log]({run}) says why.\n"
    body = f"{marker}\nOf {head}, [this run]({run}):\n\n{shorten(text, run)}"
    issues = f"{os.environ['GITHUB_API_URL']}/repos/{repository}/issues"
    comments = f"{issues}/{number}/comments"
    try:
        place = find_comment(comments, marker)
        if place is None:
            ask("POST", comments, {"body": body})
        else:
            ask("PATCH", place, {"body": body})
    except (OSError, KeyError, TypeError, ValueError) as error:
        code = getattr(error, "code", None)
        reason = "the job needs `pull-requests: write`, which a fork does not get"
        if code not in (401, 403, 404):
            reason = f"GitHub does not answer as it should ({code or type(error).__name__})"
        print(f"the comment could not be written: {reason}")
        return 1
    print("comment written" if place is None else "comment updated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
