"""Changes of a spec's text: what they change, and all that they leave as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editspec.studio.spec_editor import (
    add_edit,
    change_edit,
    move_edit,
    put_fields,
    put_values,
    remove_edit,
    switch_edit,
)
from editspec.studio.yaml_blocks import OFF, put_field, show_all_edits
from editspec_compiler.document import parse
from editspec_runtime.errors import UsageError

RECIPES = Path(__file__).parents[1] / "recipes"
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
        off = switch_edit(text, "e.yaml", number, off=True)
        assert len(edits(off) or []) == len(edits(text)) - 1
        assert show_all_edits(off) == text
        assert switch_edit(off, "e.yaml", number, off=False) == text


def test_moving_there_and_back_gives_the_same_text() -> None:
    there = move_edit(COMMENTED, "e.yaml", 0, 1)
    assert names(there) == ["b", "a"]
    assert (
        there.index("# the second")
        < there.index("name: b")
        < there.index("# the first")
        < there.index("name: a")
    )
    assert move_edit(there, "e.yaml", 1, 0) == COMMENTED


def test_an_edit_that_is_off_moves_as_it_is() -> None:
    off = switch_edit(THREE, "e.yaml", 0, off=True)
    assert names(move_edit(off, "e.yaml", 0, 2)) == ["dark-windows-to-lit", "people-gone"]
    assert show_all_edits(move_edit(off, "e.yaml", 0, 2)).count("name: dome-to-spire") == 1


def test_a_change_leaves_all_other_lines_alone() -> None:
    after = change_edit(THREE, "e.yaml", 1, lambda item: put_field(item, "rank", 3))
    differing = [
        (a, b) for a, b in zip(THREE.splitlines(), after.splitlines(), strict=True) if a != b
    ]
    assert differing == [("    rank: 2", "    rank: 3")]


def test_comments_inside_of_a_changed_edit_stay() -> None:
    after = change_edit(COMMENTED, "e.yaml", 0, lambda item: put_field(item, "rank", 3))
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


@pytest.mark.parametrize("off", [False, True])
def test_fields_that_are_there_change_and_nothing_else_does(off: bool) -> None:
    text = COMMENTED.replace("name: b", "{ name:   b, rank: 2,  solver: direct }  # mine")
    if off:
        text = switch_edit(text, "e.yaml", 1, off=True)
    fields = {"rank": 3, "solver": {"method": "direct", "steps": 5}}
    after = put_fields(text, "e.yaml", 1, fields)
    assert after == text.replace("rank: 2", "rank: 3").replace(
        "solver: direct", "solver: {method: direct, steps: 5}"
    )
    after = put_fields(after, "e.yaml", 1, {"layer": "layer2"})
    assert edits(show_all_edits(after))[1] == {"name": "b", "layer": "layer2", **fields}


def test_fields_of_json_keep_its_indentation() -> None:
    text = '{"edits": [\n\t{"name": "a", "rank": 1},\n\t{"name": "b", "rank": 1}\n]}\n'
    after = put_fields(text, "e.json", 1, {"rank": 2, "name": "c"})
    assert after == text.replace('"b", "rank": 1', '"c", "rank": 2')


def test_a_value_that_an_alias_shares_changes_at_its_place_alone() -> None:
    text = "edits:\n  - name: a\n    source: &s {latent: 1}\n    target: *s\n"
    after = put_fields(text, "e.yaml", 0, {"target": {"latent": 2}})
    assert edits(after)[0] == {"name": "a", "source": {"latent": 1}, "target": {"latent": 2}}


def test_new_keys_stand_where_they_are_usually_written() -> None:
    text = "edits:\n  - name: a\n    layer: layer7\n    solver: direct\n"
    text = change_edit(
        text, "e.yaml", 0, lambda item: put_field(item, "target", {"latent": 1, "mask": "m.png"})
    )
    text = change_edit(
        text, "e.yaml", 0, lambda item: put_field(item, "source", {"latent": 2, "mask": "m.png"})
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
    after = edits(add_edit(text, "e.yaml", {"name": "new", "layer": "layer7"}))
    assert after == [*before, {"name": "new", "layer": "layer7"}]
    assert edits(remove_edit(add_edit(text, "e.yaml", {"name": "new"}), "e.yaml", len(before))) == (
        before or None
    )


def test_json_stays_json_and_has_no_switch() -> None:
    text = json.dumps({"edits": [{"name": "a"}, {"name": "b"}]})
    assert json.loads(move_edit(text, "e.json", 0, 1))["edits"] == [{"name": "b"}, {"name": "a"}]
    assert json.loads(change_edit(text, "e.json", 0, lambda item: put_field(item, "rank", 2)))[
        "edits"
    ][0] == {
        "name": "a",
        "rank": 2,
    }
    with pytest.raises(UsageError, match="no comments"):
        switch_edit(text, "e.json", 0, off=True)


def test_an_edit_that_hangs_on_another_part_is_refused() -> None:
    text = (
        "edits:\n  - &a {name: a, source: &place {latent: 1, mask: m.png}}\n"
        "  - {name: b, source: *place}\n"
    )
    with pytest.raises(UsageError, match="by itself"):
        change_edit(text, "e.yaml", 1, lambda item: put_field(item, "rank", 2))


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
            text, model = add_edit(text, "e.yaml", item), [*model, dict(item, off=False)]
            continue
        if not model:
            continue
        number = data.draw(st.integers(0, len(model) - 1))
        if act == "move":
            to = data.draw(st.integers(0, len(model) - 1))
            text = move_edit(text, "e.yaml", number, to)
            model.insert(to, model.pop(number))
        elif act in ("off", "on"):
            text = switch_edit(text, "e.yaml", number, off=act == "off")
            model[number] = dict(model[number], off=act == "off")
        elif act == "rank":
            text = change_edit(
                text, "e.yaml", number, lambda item, rank=count: put_field(item, "rank", rank)
            )
            model[number] = dict(model[number], rank=count)
        else:
            text = remove_edit(text, "e.yaml", number)
            model.pop(number)
    plain = [{key: value for key, value in edit.items() if key != "off"} for edit in model]
    on = [edit for edit, said in zip(plain, model, strict=True) if not said["off"]]
    assert (edits(show_all_edits(text)) or []) == plain
    assert (edits(text) or []) == on
    assert yaml.safe_load(text)["version"] == 1
    assert text.startswith(THREE.split("edits:")[0])
    assert (OFF in text) is any(edit["off"] for edit in model)


USED = """\
version: 1
model: {family: stylegan2, weights: "builtin:skyline"}
edits:
  # Kept as it is.
  - use: "libs/towers.yaml#paste"
    with: {from: 12}      # the image
  - {name: own, layer: layer6}
"""


def test_an_edit_of_another_spec_gets_another_name_and_nothing_else() -> None:
    named = put_fields(USED, "spec.yaml", 0, {"name": "third"})
    assert parse(named, "spec.yaml").data["edits"][0] == {
        "use": "libs/towers.yaml#paste",
        "with": {"from": 12},
        "name": "third",
    }
    assert "# Kept as it is." in named
    assert "# the image" in named
    for change in (
        lambda: put_fields(USED, "spec.yaml", 0, {"rank": 3}),
        lambda: put_values(USED, "spec.yaml", 0, {"preserve": None}),
        lambda: change_edit(USED, "spec.yaml", 0, lambda item: None),
    ):
        with pytest.raises(UsageError, match="the edit of libs"):
            change()
    # The edit beside it is one of this text.
    assert parse(put_fields(USED, "spec.yaml", 1, {"rank": 3}), "x").data["edits"][1]["rank"] == 3
