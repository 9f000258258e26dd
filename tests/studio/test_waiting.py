"""A large text, or a request that takes long, keeps no other request waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from editspec.studio import draft, parsed
from editspec.studio.sandbox import Sandbox

PATIENCE = 600
"""Seconds after which a wait for something that has to happen is given up."""

MARK = "# the large text"


class Stop:
    """A point in the work on the large text, at which the work waits until it may go on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.reached, self.may_go_on = Event(), Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if any(MARK in str(getattr(each, "text", each)) for each in arguments):
            self.reached.set()
            assert self.may_go_on.wait(PATIENCE)
        return self.function(*arguments, **named)

    def wait_for(self, sent: Future[Any]) -> None:
        """Wait until the work of a request is here; a request that ends before fails."""
        while not self.reached.wait(0.05):
            assert not sent.done(), sent.result()


def large(text: str) -> str:
    """The text with a comment that makes it large: 300 kB, as 15 MB take a minute to parse."""
    return f"{text}{MARK}\n" + "# and more of it\n" * 20_000


STAGES = ["parse", "load", "walk"]


def stop_at(stage: str, monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Make the parsing, the looking up or the walk of the sandbox of the large text wait."""
    if stage == "parse":
        stop = Stop(parsed.parse)
        monkeypatch.setattr(parsed, "parse", stop)
    elif stage == "load":
        stop = Stop(draft.load_document)
        monkeypatch.setattr(draft, "load_document", stop)
    else:
        stop = Stop(Sandbox.problems)
        monkeypatch.setattr(Sandbox, "problems", lambda box, document: stop(box, document))
    return stop


@pytest.mark.parametrize("stage", STAGES)
def test_a_large_text_keeps_nobody_waiting(
    studio: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    name = studio.make_edit()["model"]["name"]
    stop = stop_at(stage, monkeypatch)
    body = {"revision": studio.draft.revision, "text": large(studio.draft.text)}
    with ThreadPoolExecutor(1) as pool:
        sent: Future[Any] = pool.submit(studio.call, "PUT", "spec", body)
        try:
            stop.wait_for(sent)
            # Answered now, while the work on the large text waits.
            assert studio.call("GET", f"images/{name}/1/5").content.startswith(b"\x89PNG")
            if stage == "parse":
                assert MARK not in studio.call("GET", "spec")["text"]
            else:
                assert MARK not in studio.call("POST", "undo", {})["text"]
            assert not sent.done()
        finally:
            stop.may_go_on.set()
        assert MARK in sent.result(PATIENCE)["text"]


@pytest.mark.parametrize("path", ["save", "execute"])
def test_saving_and_executing_a_large_text_keep_nobody_waiting(
    studio: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    studio.make_edit()
    studio.call("PUT", "spec", {"text": large(studio.draft.text)})
    stop = stop_at("load", monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        body = {"revision": studio.draft.revision}
        sent: Future[Any] = pool.submit(studio.client.post, f"/api/{path}", json=body)
        try:
            stop.wait_for(sent)
            assert MARK not in studio.call("POST", "undo", {})["text"]
        finally:
            stop.may_go_on.set()
        # The text was changed meanwhile: another one is not written in its place.
        answer = sent.result(PATIENCE)
    assert answer.status_code == {"save": 409, "execute": 202}[path], answer.text
    assert studio.jobs.wait(PATIENCE)
    assert not studio.path.exists()
    # The two texts differ in a comment, which a build does not see.
    assert studio.draft.is_executed == (path == "execute")
