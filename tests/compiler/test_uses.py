"""Edits of other specs and their parameters, without a command: types, places, the JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from editspec_compiler.document import parse
from editspec_compiler.json_schema import json_schema
from editspec_compiler.libraries import Libraries
from editspec_compiler.parameters import fill_references, find_type_misfit
from editspec_compiler.problems import SpecError
from editspec_compiler.references import load
from editspec_compiler.uses import resolve_uses
from editspec_runtime.io.cache import default_cache

SKYLINE = Path(__file__).parents[2] / "specs" / "skyline"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())

VALUES: dict[str, list[Any]] = {
    "integer": [3, 0, -1],
    "number": [3, 0.5, -1e9],
    "text": ["", "3"],
    "boolean": [True, False],
    "mask": ["a.png", {"box": [0, 0, 1, 1]}],
    "place": [{"latent": 3}, {}],
    "list": [[], [1]],
}


@pytest.mark.parametrize("word", VALUES)
def test_a_parameter_takes_the_values_of_its_type_alone(word: str) -> None:
    for value in VALUES[word]:
        assert find_type_misfit(word, value) == ""
    other = {repr(value): value for values in VALUES.values() for value in values}
    taken = {repr(value) for value in VALUES[word]}
    taken |= {repr(3), repr(0), repr(-1)} if word == "number" else set()
    taken |= set(map(repr, VALUES["text"])) if word == "mask" else set()
    taken |= {repr({})} | set(map(repr, VALUES["place"])) if word == "mask" else set()
    taken |= {repr({"box": [0, 0, 1, 1]})} if word == "place" else set()
    taken |= {repr("a.png")} if word == "text" else set()
    for text, value in other.items():
        assert (find_type_misfit(word, value) == "") == (text in taken), (word, value)


def test_values_take_the_places_of_references_once() -> None:
    filled: dict[Any, str] = {}
    part = {"a": [{"parameter": "x"}, {"parameter": "y"}], "b": {"parameter": "x", "c": 1}}
    values = {"x": {"parameter": "y"}}
    found = fill_references(part, values, filled)
    # A value that looks like a reference is a value, and not the value of another parameter.
    assert found == {"a": [{"parameter": "y"}, {"parameter": "y"}], "b": part["b"]}
    assert filled == {("a", 0): "x"}


def test_nothing_is_replaced_within_a_text(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {
            "version": 1,
            "parameters": {"x": {"type": "text", "default": "}, evil: {"}},
            "edits": [{"name": "a", "layer": "{parameter: x}", "query": {"parameter": "x"}}],
        }
    )
    document = parse(text, "spec.yaml")
    resolved = resolve_uses(document, Libraries(tmp_path, {}, default_cache()))
    (edit,) = resolved.data["edits"]
    assert edit == {"name": "a", "layer": "{parameter: x}", "query": "}, evil: {"}


def test_a_spec_without_uses_is_the_document_itself(tmp_path: Path) -> None:
    document = parse((SKYLINE / "three_edits.yaml").read_text(), "spec.yaml")
    assert resolve_uses(document, Libraries(tmp_path, {}, default_cache())) is document


def test_what_is_used_is_what_the_library_says() -> None:
    loaded = load(SKYLINE / "lit_and_empty.yaml")
    first, second = loaded.spec.edits
    written = load(SKYLINE / "three_edits.yaml").spec.edits
    assert first == written[1].model_copy(update={"protect": None})
    assert second == written[2].model_copy(update={"protect": None, "rank": 6})
    assert loaded.pins == ()


def test_a_library_that_asks_names_where() -> None:
    with pytest.raises(SpecError) as error:
        load(SKYLINE / "by_examples.yaml")
    paths = [problem.path for problem in error.value.problems]
    assert paths == [("edits", 0, "pairs", "file"), ("edits", 0, "preserve", "file")]


def spec(*edits: dict[str, Any], **more: Any) -> dict[str, Any]:
    model = {"family": "stylegan2", "weights": "builtin:skyline"}
    return {"version": 1, "model": model, "edits": list(edits), **more}


PLACE = {"latent": {"parameter": "x"}, "mask": "m.png"}

FITTING = [
    spec({"use": "a.yaml#b"}),
    spec({"use": "a.yaml#b", "with": {"x": [{"any": "thing"}]}, "name": "c"}),
    spec({"name": "a", "layer": {"parameter": "x"}, "source": PLACE, "target": {"parameter": "y"}}),
    spec(parameters={"x": {"type": "place", "default": {"latent": 3}, "description": "A place."}}),
]

UNFIT = [
    spec({"use": 3}),
    spec({"use": "a.yaml#b", "layer": "layer6"}),
    spec({"use": "a.yaml#b", "with": [3]}),
    spec({"name": "a", "layer": {"parameter": 3}, "source": PLACE, "target": PLACE}),
    spec({"name": {"parameter": "x"}, "layer": "layer6", "source": PLACE, "target": PLACE}),
    spec(parameters={"x": {"type": "whole"}}),
    spec(parameters={"x": {"default": 3}}),
    {**spec(), "model": {"parameter": "x"}},
]


@pytest.mark.parametrize("given", FITTING)
def test_the_json_schema_takes_uses_and_references(given: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(given)


@pytest.mark.parametrize("given", UNFIT)
def test_the_json_schema_takes_them_where_they_may_stand_alone(given: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(given)
