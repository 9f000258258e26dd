"""Changes of a spec's text: what they change, and all that they leave as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editspec.studio.spec_editor import OFF, added, changed, moved, put, removed, switched, unfolded
from editspec_compiler.document import parse
from editspec_runtime.errors import UsageError

RECIPES = Path(__file__).parents[2] / "specs" / "skyline"
THREE = (RECIPES / "three_edits.yaml").read_text()

COMMENTED = """\
# What this is about.
version: 1
edits: # the rules

  # the first
- name: a   # keep me
  layer: layer7   # and me
  context:
  - {latent: 1,
     mask: "m.png"}
# the second
-
  name: b

# behind the edits
statistics: {samples: 3}   # few
"""


def edits(text: str) -> list[Any]:
    return parse(text).data["edits"]


def names(text: str) -> list[str]:
    return [edit["name"] for edit in edits(text)]


@pytest.mark.parametrize("text", [THREE, COMMENTED])
def test_switching_off_and_on_gives_the_same_text(text: str) -> None:
    for number in range(len(edits(text))):
        off = switched(text, "e.yaml", number, off=True)
        assert len(edits(off) or []) == len(edits(text)) - 1
        assert unfolded(off) == text
        assert switched(off, "e.yaml", number, off=False) == text


def test_moving_there_and_back_gives_the_same_text() -> None:
    there = moved(COMMENTED, "e.yaml", 0, 1)
    assert names(there) == ["b", "a"]
    assert (
        there.index("# the second")
        < there.index("name: b")
        < there.index("# the first")
        < there.index("name: a")
    )
    assert moved(there, "e.yaml", 1, 0) == COMMENTED


def test_an_edit_that_is_off_moves_as_it_is() -> None:
    off = switched(THREE, "e.yaml", 0, off=True)
    assert names(moved(off, "e.yaml", 0, 2)) == ["dark-windows-to-lit", "people-gone"]
    assert unfolded(moved(off, "e.yaml", 0, 2)).count("name: dome-to-spire") == 1


def test_a_change_leaves_all_other_lines_alone() -> None:
    after = changed(THREE, "e.yaml", 1, lambda item: put(item, "rank", 3))
    differing = [
        (a, b) for a, b in zip(THREE.splitlines(), after.splitlines(), strict=True) if a != b
    ]
    assert differing == [("    rank: 2", "    rank: 3")]


def test_comments_inside_of_a_changed_edit_stay() -> None:
    after = changed(COMMENTED, "e.yaml", 0, lambda item: put(item, "rank", 3))
    assert edits(after)[0]["rank"] == 3
    for comment in (
        "# What this",
        "# the rules",
        "# the first",
        "# keep me",
        "# and me",
        "# the second",
        "# behind",
        "# few",
    ):
        assert comment in after
    assert after.split("# the second")[1] == COMMENTED.split("# the second")[1]


def test_new_keys_stand_where_they_are_usually_written() -> None:
    text = "edits:\n  - name: a\n    layer: layer7\n    solver: direct\n"
    text = changed(
        text, "e.yaml", 0, lambda item: put(item, "target", {"latent": 1, "mask": "m.png"})
    )
    text = changed(
        text, "e.yaml", 0, lambda item: put(item, "source", {"latent": 2, "mask": "m.png"})
    )
    assert list(edits(text)[0]) == ["name", "layer", "source", "target", "solver"]


@pytest.mark.parametrize(
    "text",
    [
        "edits: []\n",
        "edits:\n",
        "{edits: [{name: x, layer: l}]}\n",
        "edits: [{name: x}, {name: y}]\n",
        COMMENTED,
        THREE,
    ],
)
def test_an_edit_is_added_to_whatever_is_there(text: str) -> None:
    before = edits(text) or []
    after = edits(added(text, "e.yaml", {"name": "new", "layer": "layer7"}))
    assert after == [*before, {"name": "new", "layer": "layer7"}]
    assert edits(removed(added(text, "e.yaml", {"name": "new"}), "e.yaml", len(before))) == (
        before or None
    )


def test_json_stays_json_and_has_no_switch() -> None:
    text = json.dumps({"edits": [{"name": "a"}, {"name": "b"}]})
    assert json.loads(moved(text, "e.json", 0, 1))["edits"] == [{"name": "b"}, {"name": "a"}]
    assert json.loads(changed(text, "e.json", 0, lambda item: put(item, "rank", 2)))["edits"][
        0
    ] == {
        "name": "a",
        "rank": 2,
    }
    with pytest.raises(UsageError, match="no comments"):
        switched(text, "e.json", 0, off=True)


def test_an_edit_that_hangs_on_another_part_is_refused() -> None:
    text = "edits:\n  - &a {name: a, source: &place {latent: 1, mask: m.png}}\n  - {name: b, source: *place}\n"
    with pytest.raises(UsageError, match="by itself"):
        changed(text, "e.yaml", 1, lambda item: put(item, "rank", 2))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["move", "off", "on", "rank", "remove", "add"]), max_size=8), st.data()
)
def test_whatever_is_done_is_what_was_meant(acts: list[str], data: st.DataObject) -> None:
    """The text follows a plain list of edits, through any sequence of changes."""
    text, model = THREE, [dict(edit, off=False) for edit in edits(THREE)]
    for count, act in enumerate(acts):
        if act == "add":
            item = {"name": f"new-{count}", "layer": "layer2"}
            text, model = added(text, "e.yaml", item), [*model, dict(item, off=False)]
            continue
        if not model:
            continue
        number = data.draw(st.integers(0, len(model) - 1))
        if act == "move":
            to = data.draw(st.integers(0, len(model) - 1))
            text = moved(text, "e.yaml", number, to)
            model.insert(to, model.pop(number))
        elif act in ("off", "on"):
            text = switched(text, "e.yaml", number, off=act == "off")
            model[number] = dict(model[number], off=act == "off")
        elif act == "rank":
            text = changed(text, "e.yaml", number, lambda item, rank=count: put(item, "rank", rank))
            model[number] = dict(model[number], rank=count)
        else:
            text = removed(text, "e.yaml", number)
            model.pop(number)
    plain = [{key: value for key, value in edit.items() if key != "off"} for edit in model]
    on = [edit for edit, said in zip(plain, model, strict=True) if not said["off"]]
    assert (edits(unfolded(text)) or []) == plain
    assert (edits(text) or []) == on
    assert yaml.safe_load(text)["version"] == 1
    assert text.startswith(THREE.split("edits:")[0])
    assert (OFF in text) is any(edit["off"] for edit in model)
