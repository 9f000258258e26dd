from __future__ import annotations

import json
from typing import Any

import pytest

from editspec_compiler.document import parse
from editspec_compiler.rewrite import Cut, Put, RewriteError, rewrite

RANK = Put(("edits", 0, "rank"), 2, after="layer")
LAYER = Put(("edits", 0, "layer"), "layer8")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  - layer: a # why\n    rank: 1 # 1\n", "  - layer: layer8 # why\n    rank: 2 # 1\n"),
        ("  - layer: 'a'\n", '  - layer: "layer8"\n    rank: 2\n'),
        ("  - {layer: a, rank: 1}\n", "  - {layer: layer8, rank: 2}\n"),
        ("  - {layer: a, name: e}\n", "  - {layer: layer8, rank: 2, name: e}\n"),
        (
            "  - layer: a\r\n    name: e  # the name\r\n",
            "  - layer: layer8\r\n    rank: 2\r\n    name: e  # the name\r\n",
        ),
        ("  -\n      layer: a\n      rank:\n", "  -\n      layer: layer8\n      rank: 2\n"),
        ("  - layer: a", "  - layer: layer8\n    rank: 2"),
    ],
)
def test_values_change_and_the_rest_stays(before: str, after: str) -> None:
    head = "# ä\nversion: 1\nedits:\n"
    assert rewrite(head + before, "spec.yaml", [LAYER, RANK]) == head + after


@pytest.mark.parametrize("indent", [None, 2, "\t", "\t\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_keeps_its_layout(indent: Any, newline: str) -> None:
    data = {"edits": [{"name": "ä", "layer": "a", "target": {"latent": 1}}], "version": 1}
    text = json.dumps(data, indent=indent).replace("\n", newline)
    found = rewrite(text, "spec.json", [LAYER, RANK])
    edit = {"name": "ä", "layer": "layer8", "rank": 2, "target": {"latent": 1}}
    assert found == json.dumps({**data, "edits": [edit]}, indent=indent).replace("\n", newline)


def test_an_alias_changes_once_where_all_that_share_it_change() -> None:
    text = "edits:\n  - {layer: &l a}\n  - {layer: *l}\n"
    with pytest.raises(RewriteError):
        rewrite(text, "spec.yaml", [LAYER])
    both = [LAYER, Put(("edits", 1, "layer"), "layer8")]
    with pytest.raises(RewriteError):  # the anchor would go, and the alias needs it
        rewrite(text, "spec.yaml", both)
    shared = "a: &m {box: x}\nb: *m\n"
    puts = [Put(("a", "box"), "y"), Put(("b", "box"), "y")]
    assert rewrite(shared, "spec.yaml", puts) == "a: &m {box: y}\nb: *m\n"


@pytest.mark.parametrize("value", ["1", "true", "a: b", "#", "", "~", " x", "ä", "a,b", "null"])
def test_text_stays_text(value: str) -> None:
    found = rewrite("a: {b: x}\n", "spec.yaml", [Put(("a", "b"), value)])
    assert parse(found).data == {"a": {"b": value}}


@pytest.mark.parametrize("path", [("a", "b", "c"), ("c", "d"), ("l", 3), ("l", "x")])
def test_what_is_not_there_cannot_be_put_into(path: tuple[str | int, ...]) -> None:
    with pytest.raises(RewriteError):
        rewrite("a: {b: x}\nl: [1]\n", "spec.yaml", [Put(path, 1)])


def test_a_value_takes_the_place_of_other_keys() -> None:
    put = Put(("s", "weight"), 0.5, instead_of=("budget",), short="method")
    for before, after in (
        ("s: fast # why\n", "s: {method: fast, weight: 0.5} # why\n"),
        ("s: {method: fast, budget: 1}\n", "s: {method: fast, weight: 0.5}\n"),
        ("s:\n  budget: 1 # why\n  method: fast\n", "s:\n  weight: 0.5 # why\n  method: fast\n"),
    ):
        assert rewrite(before, "spec.yaml", [put]) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  - layer: a\n    rank: 1 # one\n    name: e\n", "  - layer: a\n    name: e\n"),
        ("  - layer: a\n    rank:\n      - 1\n      - 2\n", "  - layer: a\n"),
        ("  - rank: 1\n    layer: a\n", "  - layer: a\n"),
        ("  - {layer: a, rank: 1}\n", "  - {layer: a}\n"),
        ("  - {rank: 1, layer: a}\n", "  - {layer: a}\n"),
        ("  - layer: a\n    # kept\n    rank: 1", "  - layer: a\n    # kept\n"),
    ],
)
def test_a_key_goes_and_the_rest_stays(before: str, after: str) -> None:
    head = "# ä\nedits:\n"
    assert rewrite(head + before, "spec.yaml", [Cut(("edits", 0, "rank"))]) == head + after


def test_what_is_not_there_cannot_be_cut() -> None:
    with pytest.raises(RewriteError):
        rewrite("edits:\n  - layer: a\n", "spec.yaml", [Cut(("edits", 0, "rank"))])


def test_a_new_list_may_have_a_line_for_each_entry() -> None:
    put = Put(("edits", 0, "pairs"), [{"a": 1}, {"b": 2}], after="layer", entries=True)
    found = rewrite("edits:\n  - layer: a\n    name: e\n", "spec.yaml", [put])
    assert "    pairs: [\n      {a: 1},\n      {b: 2}\n    ]\n    name: e\n" in found
    as_json = rewrite('{"edits": [{"layer": "a"}]}', "spec.json", [put])
    assert json.loads(as_json)["edits"][0]["pairs"] == put.value
