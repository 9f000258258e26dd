from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import editspec
from editspec_compiler.document import parse
from editspec_compiler.json_schema import json_schema
from editspec_compiler.method_fields import METHOD_FIELDS
from editspec_compiler.modalities.image.schema import CHECKS
from editspec_compiler.validation import check
from editspec_runtime.core.method import Settings
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.methods.registry import METHODS, register_method

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LANGUAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
SPECS = sorted((Path(__file__).parents[2] / "specs").rglob("*.yaml"))
PLACE = {"latent": 1, "mask": "m.png"}
LEAST: dict[str, Any] = {
    "version": 1,
    "model": {"family": "stylegan2", "weights": "builtin:skyline"},
    "edits": [{"name": "e", "layer": "layer6", "source": PLACE, "target": PLACE}],
}


ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "target-error": {"measure": "target-error", "at_most": 0.5},
    "efficacy": {
        "measure": "efficacy",
        "at_least": 0.5,
        "images": [{"latents": [1, [0.5]], "mask": "m.png"}],
    },
    "collateral": {"measure": "collateral", "at_most": 0.5, "images": [{"latents": [1]}]},
    "trace": {"measure": "trace", "at_most": 0.5, "images": [{"latents": [1]}]},
    "recognised": {
        "measure": "recognised",
        "with": "glasses:probability",
        "images": [{"latents": [1]}],
        "at_most": 0.5,
    },
    "predicted-collateral": {"measure": "predicted-collateral", "at_most": 0.5},
    "patch-size": {"measure": "patch-size", "at_most": 100},
    "finite": {"measure": "finite"},
}


def problems(data: dict[str, Any]) -> list[str]:
    return [problem.message for problem in check(parse(json.dumps(data)))[1]]


def with_edit(**fields: Any) -> dict[str, Any]:
    data = copy.deepcopy(LEAST)
    data["edits"][0].update(copy.deepcopy(fields))
    return data


def parsed(data: dict[str, Any]) -> Any:
    spec, found = check(parse(json.dumps(data)))
    assert not found
    return spec


def with_value(path: str, value: Any) -> dict[str, Any]:
    """A spec of every optional part, with one of its values written out."""
    data = with_edit(context=[copy.deepcopy(PLACE)], preserve=[{"latent": 3}], refine={})
    data["checks"] = [{"measure": "finite"}]
    *folders, key = path.split(".")
    node: Any = data
    for folder in folders:
        node = node[int(folder)] if folder.isdigit() else node.setdefault(folder, {})
    node[key] = value
    return data


OPTIONAL = {
    "precision": ("precision", "float64"),
    "truncation": ("model.truncation", 0.5),
    "latents.seed": ("latents.seed", 2),
    "latents.sampler": ("latents.sampler", "numpy-legacy"),
    "statistics.samples": ("statistics.samples", 999),
    "statistics.seed": ("statistics.seed", 1),
    "rank": ("edits.0.rank", 2),
    "directions": ("edits.0.directions", "svd"),
    "solver": ("edits.0.solver", "direct"),
    "weight": ("edits.0.context.0.weight", 2),
    "refine.steps": ("edits.0.refine.steps", 9),
    "refine.learning_rate": ("edits.0.refine.learning_rate", 0.5),
    "refine.weight": ("edits.0.refine.weight", 1),
    "refine.whiten": ("edits.0.refine.whiten", True),
    "severity": ("checks.0.severity", "warn"),
}
"""The keys that docs/language.md gives a default: where they stand, and a value that is another."""


def documented_defaults() -> dict[str, Any]:
    """The defaults of the tables of keys in docs/language.md that are a number or a word."""
    defaults = {}
    for table in re.findall(r"^\| key \| default \|.*\n(?:\|.*\n)+", LANGUAGE, re.MULTILINE):
        for key, default in re.findall(r"\| `([a-z._]+)` \| (`[a-z0-9-]+`|[0-9.]+) \|", table):
            defaults[key] = yaml.safe_load(default.strip("`"))
    return defaults


def test_every_documented_default_is_looked_at() -> None:
    assert set(documented_defaults()) == set(OPTIONAL)


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_may_be_left_out_has_its_documented_default(key: str) -> None:
    path, other = OPTIONAL[key]
    left_out = parsed(with_value("version", 1))
    assert parsed(with_value(path, documented_defaults()[key])) == left_out
    assert parsed(with_value(path, other)) != left_out


@pytest.mark.parametrize("name", METHODS)
def test_a_solver_by_its_name_is_its_defaults(name: str) -> None:
    source = {"erase": {"units": 3}} if name == "ablate" else PLACE
    by_name, in_full = (
        parsed(with_edit(source=source, solver=solver)) for solver in (name, {"method": name})
    )
    assert by_name == in_full


@pytest.mark.parametrize(
    "mask",
    [
        "a.png",
        {"box": [1, 2, 3.5, 4]},
        {"ellipse": [1, 2, 3, 4]},
        {"polygon": [[1, 2], [3, 4], [5, 0]]},
        {"union": ["a.png", {"box": [1, 2, 3, 4]}, {"union": [{"box": [1, 2, 3, 4]}]}]},
    ],
)
def test_masks(mask: Any) -> None:
    assert not problems(with_edit(source={"latent": 1, "mask": mask}))
    assert problems(with_edit(source={"latent": 1, "mask": [mask]}))


@pytest.mark.parametrize(
    "latent", [0, [0.5, 1], {"file": "z.npy"}, {"file": "z.safetensors", "key": "z"}]
)
def test_latents(latent: Any) -> None:
    assert not problems(with_edit(source={"latent": latent, "mask": "m.png"}))
    assert problems(with_edit(source={"latent": {"x": latent}, "mask": "m.png"}))


@given(st.data())
def test_whatever_is_put_anywhere_is_a_problem_with_a_place(data: st.DataObject) -> None:
    changed = with_edit(context=[PLACE], solver={"method": "direct"})
    changed["checks"] = [
        {**fields, "severity": "warn"} for fields in copy.deepcopy(ONE_OF_EACH).values()
    ]
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(changed)
    node, key = data.draw(st.sampled_from(places))
    node[key] = data.draw(
        st.sampled_from([None, True, -1, 1.5, "?", [], {}, [{}], {"a": 1}, [1, "x"]])
    )
    for problem in check(parse(json.dumps(changed)))[1]:
        assert problem.line == 1
        assert "does not fit" not in problem.message


SHARED = {
    *("version", "model", "precision", "compatibility"),
    *("edits", "checks", "moved", "parameters"),
}


def test_the_json_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.SchemaError):
        jsonschema.Draft202012Validator.check_schema({**SCHEMA, "oneOf": 1})


def test_the_json_schema_knows_the_same_fields() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    families = []
    for reference in schema["oneOf"]:
        spec = definitions[reference["$ref"].removeprefix("#/$defs/")]
        own = {"latents", "pictures"} & set(spec["properties"])
        assert set(spec["properties"]) == SHARED | own | {"statistics"}
        assert spec["additionalProperties"] is False
        model = definitions[spec["properties"]["model"]["$ref"].removeprefix("#/$defs/")]
        families.append(model["properties"]["family"]["const"])
        assert ("module" in model["properties"]) == (families[-1] == "torch")
    assert families == list(FAMILIES)
    assert "project_every" not in definitions["Direct"]["properties"]
    assert "project_every" in definitions["ProjectedGradient"]["properties"]
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            described = definitions[field["$ref"].rpartition("/")[2]] if "$ref" in field else field
            assert "description" in described or "const" in described


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_fits_the_json_schema_of_one_family(path: Path) -> None:
    data = parse(path.read_text(), path.name).data
    assert VALIDATOR.is_valid(data)
    data["edits"][0]["rnak"] = 1
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    "model",
    [
        {"family": "styelgan2", "weights": "a.pt"},
        {"family": "stylegan2", "weights": "a.pt", "module": "a:b"},
        {"family": "torch", "weights": "a.pt", "module": "a:b", "truncation": 0.5},
    ],
)
def test_the_json_schema_tells_families_apart(model: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({**LEAST, "model": model})


def docs_table(head: str) -> tuple[list[str], dict[str, list[str]]]:
    """The columns of a table in docs/language.md, and its rows by their first cells."""
    table = re.search(rf"\| {head} +\|.*\n(?:\|.*\n)+", LANGUAGE)
    assert table is not None
    rows = [
        [cell.strip(" `") for cell in line.strip("|\n").split("|")]
        for line in table[0].splitlines()
    ]
    return rows[0][1:], {row[0]: row[1:] for row in rows[2:]}


def test_the_table_of_fields_in_the_docs_is_true() -> None:
    fields, methods = docs_table(r"method")
    assert set(methods) == set(METHODS)
    assert fields == list(METHOD_FIELDS)
    settings = {
        "rank": 1,
        "context": [PLACE],
        "directions": "zca",
        "observe": "layer8",
        "preserve": [{"latent": 3}],
        "protect": "previous",
        "refine": {"steps": 3},
    }
    for method, cells in methods.items():
        for field, cell in zip(fields, cells, strict=True):
            found = problems(with_edit(solver=method, **{field: settings[field]}))
            assert (METHOD_FIELDS[field] in METHODS[method].takes) == (cell == "optional"), (
                method,
                field,
            )
            assert any(f"{method} takes no {field}" in str(problem) for problem in found) == (
                cell == "error"
            )


def test_the_table_of_checks_in_the_docs_is_true() -> None:
    _, measures = docs_table("measure")
    assert set(measures) == set(CHECKS)
    sides = {"none": [], "either": ["at_most", "at_least"]}
    for measure, (bound, on, *_) in measures.items():
        fields = CHECKS[measure].model_fields
        found = [name for name in ("at_most", "at_least") if name in fields]
        assert found == sides.get(bound, [bound])
        found = (
            "error"
            if "images" not in fields
            else "required"
            if fields["images"].is_required()
            else "optional"
        )
        assert found == on, measure


def test_checks_are_of_every_edit_that_has_the_measure() -> None:
    data = with_edit()
    data["edits"] += [{**data["edits"][0], "name": "f"}, {**data["edits"][0], "name": "g"}]
    data["checks"] = [fields for fields in ONE_OF_EACH.values() if "images" not in fields]
    data["checks"] += [
        {"measure": "retention", "at_least": 1},
        {"measure": "finite", "edit": "f", "name": "again"},
        ONE_OF_EACH["collateral"],
        ONE_OF_EACH["recognised"],
        {**ONE_OF_EACH["efficacy"], "edit": "g"},
    ]
    spec, found = check(parse(json.dumps(data)))
    assert not found
    assert spec is not None
    every = ["e", "f", "g"]
    assert [spec.edits_of(given) for given in spec.checks] == [every] * 4 + [
        ["e", "f"],
        ["f"],
        [None],
        [None],
        ["g"],
    ]


def test_a_method_without_a_rank_has_no_limit() -> None:
    limits = {}
    for method in METHODS:
        spec, _ = check(parse(json.dumps(with_edit(solver=method, source={"erase": {"units": 3}}))))
        assert spec is not None
        limits[method] = spec.edits[0].rank_limit
    assert {method for method, limit in limits.items() if limit is None} == {"layer", "all-weights"}
    assert limits["ablate"] == 3
    assert limits["direct"] == 1


class Nudge(Settings):
    """The settings of a method that is registered late."""

    by: float = Field(0.5, gt=0, description="By how much.")


def test_a_method_that_is_registered_later_is_in_the_language(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit = with_edit(solver={"method": "nudge", "by": 2.0})
    (unknown,) = problems(edit)
    assert "there is no solver method" in str(unknown)
    monkeypatch.setitem(METHODS, "nudge", METHODS["direct"])  # so that it is removed again
    register_method("nudge", Nudge, "no_module")
    spec, found = check(parse(json.dumps(edit)))
    assert spec is not None
    assert not found
    assert spec.edits[0].solver.as_json() == {"method": "nudge", "by": 2.0}
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(edit)
    # Negative controls: its own bounds hold, in both, and the schema of before does not know it.
    assert not VALIDATOR.is_valid(edit)
    edit["edits"][0]["solver"]["by"] = -1.0
    assert "must be more than 0" in str(problems(edit))
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(edit)


def test_an_erased_value_takes_a_context_whatever_the_method() -> None:
    for method in METHODS:
        assert not problems(
            with_edit(solver=method, source={"erase": {"units": 3}}, context=[PLACE])
        )
    assert problems(with_edit(solver="ablate"))


def test_the_table_of_solvers_in_the_docs_is_true() -> None:
    """A documented default changes nothing, another value does; `error` is one."""
    fields, methods = docs_table("solver")
    assert set(methods) == set(METHODS)
    assert {field for method in METHODS.values() for field in method.settings.model_fields} <= {
        "method",
        *fields,
    }
    for method, cells in methods.items():
        left_out = parsed_solver(method)
        for field, cell in zip(fields, cells, strict=True):
            if cell == "error":
                solver = {"method": method, field: 1}
                assert any(field in message for message in problems(with_edit(solver=solver)))
            elif cell == "None":  # what is left out cannot be written out
                assert parsed_solver(method, **{field: 0.25}) != left_out
            else:
                default = yaml.safe_load(cell)
                other = not default if isinstance(default, bool) else 2 * default
                assert parsed_solver(method, **{field: default}) == left_out, (method, field)
                other = 0.5 if field == "preserve_share" else other
                assert parsed_solver(method, **{field: other}) != left_out, (method, field)


def parsed_solver(method: str, **settings: Any) -> Any:
    source = {"erase": {"units": 3}} if method == "ablate" else PLACE
    spec = parsed(with_edit(source=source, solver={"method": method, **settings}))
    return spec.edits[0].solver


def test_a_spec_travels_to_another_process() -> None:
    loaded = editspec.load(Path(__file__).parents[1] / "recipes" / "dome_to_spire.yaml")
    again = pickle.loads(pickle.dumps(loaded.spec))
    assert again == loaded.spec
    assert type(again) is type(loaded.spec)
    assert type(again.model) is type(loaded.spec.model)
    assert [edit.solver for edit in again.edits] == [edit.solver for edit in loaded.spec.edits]
