"""Results, search hits and failures belong to an edit and to what was executed, not to a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

from editspec.studio.identities import follow_edits, new_identities

A, B, C = ({"name": name, "layer": "layer6"} for name in "abc")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([A, B, C], (0, 1, 2)),
        ([C, A, B], (2, 0, 1)),
        ([A, C], (0, 2)),
        ([A, B, C, {"name": "d"}], (0, 1, 2, 9)),
        # Changed, or renamed at its place, it is the same edit.
        ([A, B | {"layer": "layer7"}, C], (0, 1, 2)),
        ([A, B | {"name": "d"}, C], (0, 1, 2)),
        ([B, A | {"name": "d", "rank": 3}, C], (1, 9, 2)),
        # Moved and renamed, its content tells.
        ([{"name": "d", "layer": "layer6", "rank": 1}, A, B, C], (9, 0, 1, 2)),
        # Another edit in its place is another edit.
        ([{"name": "d", "layer": "layer2"}, B, C], (9, 1, 2)),
        # Moved and changed, its name tells.
        ([C, A | {"rank": 2}, B], (2, 0, 1)),
        # Two edits alike are told apart by their order.
        ([A, A, B, C], (0, 9, 1, 2)),
        (["broken", None], (9, 10)),
        ([], ()),
    ],
)
def test_edits_are_followed(after: list[Any], expected: tuple[int, ...]) -> None:
    assert follow_edits([A, B, C], new_identities([A, B, C]), after, used=[8]) == expected


SPEC = """\
version: 1
model: {family: stylegan2, weights: tiny.safetensors}
statistics: {samples: 16}
edits:
  - name: one
    layer: layer6
    source: {latent: 5, mask: {box: [4, 4, 12, 12]}}
    target: {latent: 6, mask: {box: [2, 2, 10, 10]}}
    context: [{latent: 7, mask: {box: [4, 4, 12, 12]}}]
    solver: least-squares
  - name: two
    layer: layer5
    source: {latent: 1, mask: {box: [4, 4, 12, 12]}}
    target: {latent: 2, mask: {box: [2, 2, 10, 10]}}
    solver: least-squares
"""


@pytest.fixture
def tiny(
    make_studio: Callable[..., Any], make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Any
) -> Any:
    """A studio on a tiny model with two edits."""
    save_file(make_tiny(size=16), tmp_path / "tiny.safetensors")
    return make_studio(SPEC)


def results(state: Any) -> dict[int, tuple[str, bool]]:
    """The digest of each result by the edit that it belongs to, and whether it holds."""
    edits = state["results"]["edits"]
    return {each["edit"]: (each["digest"], each["current"]) for each in edits}


def test_results_come_back_with_undo_and_leak_to_no_other_edit(tiny: Any) -> None:
    executed = tiny.run("execute")
    one, two = (edit["id"] for edit in executed["edits"])
    first = results(executed)
    assert set(first) == {one, two}
    assert all(current for _, current in first.values())

    # The second is changed: what was solved before it still holds.
    state = tiny.call("PATCH", "edits/1", {"layer": "layer4"})
    assert not state["results"]["current"]
    assert [current for _, current in results(state).values()] == [True, False]
    assert tiny.call("POST", "undo", {})["results"]["current"]

    # Another edit of the same name is another edit.
    tiny.call("DELETE", "edits/0", None, revision=tiny.draft.revision)
    tiny.call("POST", "edits", {})
    state = tiny.call("PATCH", "edits/1", {"name": "one"})
    assert [edit["name"] for edit in state["edits"]] == ["two", "one"]
    new = state["edits"][1]["id"]
    assert new not in results(state)
    for _ in range(3):
        state = tiny.call("POST", "undo", {})
    assert results(state) == first
    assert state["results"]["current"]

    # A comment changes nothing, and what was executed before the last time is known again.
    state = tiny.call("PUT", "spec", {"text": f"# mine\n{tiny.draft.text}"})
    assert state["results"]["current"]
    tiny.call("PATCH", "edits/0", {"rank": 2})
    other = tiny.run("execute")
    assert results(other) != first
    state = tiny.call("POST", "undo", {})
    assert results(state) == first
    assert state["results"]["current"]
    drawn = tiny.call("GET", f"images/{state['results']['after']}/1/3")
    assert drawn.content.startswith(b"\x89PNG")


def test_what_a_search_found_belongs_to_the_edit_and_its_layer(tiny: Any) -> None:
    state = tiny.run("edits/0/search")
    found = [match["latent"] for match in state["edits"][0]["found"]]
    assert len(found) == 12
    assert not {5, 6, 7} & set(found)
    assert state["edits"][1]["found"] == []
    state = tiny.call("PATCH", "edits/0", {"name": "two-and-a-half", "position": 1})
    assert [bool(edit["found"]) for edit in state["edits"]] == [False, True]
    state = tiny.call("PATCH", "edits/1", {"layer": "layer5"})
    assert state["edits"][1]["found"] == []


def test_a_failure_goes_with_its_cause(
    tiny: Any, make_studio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("editspec.engine.session.BuildSession.edit", fail)
    assert "memory" in tiny.run("execute")["failure"]["message"]
    assert tiny.call("GET", "spec")["failure"] is not None
    changed = tiny.call("PATCH", "edits/0", {"rank": 2})
    assert changed["failure"] is None
    # It comes back with the spec that it is about.
    assert tiny.call("POST", "undo", {})["failure"] is not None


def test_a_text_that_cannot_be_read_keeps_what_it_held(
    tiny: Any, make_studio: Callable[..., Any]
) -> None:
    executed = tiny.run("execute")
    mask = tiny.call("GET", "edits/1/masks/source").content
    broken = tiny.call("PUT", "spec", {"text": f"{SPEC}  - [\n"})
    assert not broken["readable"]
    assert broken["edits"] == executed["edits"]
    assert broken["problems"]
    assert tiny.call("GET", "edits/1/masks/source").content == mask
    # A page asks for the mask that it knows of, not for the one that is there by then.
    known = executed["edits"][1]["source"]["mask"]
    assert tiny.call("GET", "edits/1/masks/source", mask=known).content == mask
    tiny.call("GET", "edits/1/masks/source", None, 404, mask="another")
    assert tiny.call("POST", "edits/1/composite").content.startswith(b"\x89PNG")
    tiny.call("POST", "edits", {}, 422)
    tiny.call("POST", "execute", {}, 422)
    # So does the next server, and the next text that can be read.
    again = make_studio()
    state = again.call("GET", "spec")
    assert not state["readable"]
    assert state["edits"] == executed["edits"]
    mended = again.call("PUT", "spec", {"text": SPEC})
    assert mended["readable"]
    assert [edit["id"] for edit in mended["edits"]] == [edit["id"] for edit in executed["edits"]]


def test_a_context_that_is_begun_keeps_the_target(tiny: Any) -> None:
    place = {"latent": 9, "mask": {"box": [1, 1, 9, 9]}}
    state = tiny.call("PUT", "edits/1/places/context", place)
    assert [each["latent"] for each in state["edits"][1]["context"]] == [2, 9]
    # One that is there gets what is added, and no more.
    state = tiny.call("PUT", "edits/0/places/context", place)
    assert [each["latent"] for each in state["edits"][0]["context"]] == [7, 9]


def test_what_is_missing_is_unfinished_and_what_is_wrong_is_wrong(studio: Any) -> None:
    problems = studio.call("GET", "spec")["problems"]
    assert [problem["unfinished"] for problem in problems] == [True, True]
    wrong = studio.draft.text.replace("rank: 4", "rank: none")
    problems = studio.call("PUT", "spec", {"text": wrong})["problems"]
    assert sorted(problem["unfinished"] for problem in problems) == [False, True, True]
