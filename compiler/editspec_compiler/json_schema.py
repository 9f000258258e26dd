"""The JSON Schema of the language, for editors. Imports no torch."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic.json_schema import models_json_schema

from editspec_compiler.parameters import REFERENCE
from editspec_compiler.registry import spec_type
from editspec_compiler.schema import UsedEdit
from editspec_runtime.families.registry import FAMILIES

REFERENCE_SCHEMA = {
    "type": "object",
    "description": "The value of a parameter that this spec declares.",
    "properties": {REFERENCE: {"type": "string", "description": "Its name."}},
    "required": [REFERENCE],
    "additionalProperties": False,
}
"""The JSON Schema of what stands for the value of a parameter."""

PLACE = "#/$defs/"
"""The beginning of a reference within the schema."""

ABOUT = ("description", "default", "title")
"""What a schema says of a value besides which values there may be."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the language: one of the specs of all families."""
    types = [spec_type(family) for family in FAMILIES]
    parts: list[Any] = [(each, "validation") for each in [*types, UsedEdit]]
    references, schema = models_json_schema(parts)
    one_of = [references[each, "validation"] for each in types]
    definitions = schema["$defs"]
    definitions["Reference"] = REFERENCE_SCHEMA
    specs = [definitions[each["$ref"].removeprefix(PLACE)] for each in one_of]
    edits = [_name_of(spec["properties"]["edits"]["items"]) for spec in specs]
    for name in sorted(_find_below(definitions, set(edits))):
        _allow_references(definitions[name], name in edits)
    used = references[UsedEdit, "validation"]
    for spec in specs:
        items = spec["properties"]["edits"]["items"]
        spec["properties"]["edits"]["items"] = {"anyOf": [items, used]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | {"oneOf": one_of, "$defs": definitions}


def _name_of(schema: dict[str, Any]) -> str:
    name: str = schema["$ref"].removeprefix(PLACE)
    return name


def _find_below(definitions: dict[str, Any], names: set[str]) -> set[str]:
    """Find all definitions that some of them lead to, with these."""
    found: set[str] = set()
    while names:
        found |= names
        texts = [json.dumps(definitions[name]) for name in names]
        names = {
            each for text in texts for each in re.findall(f'"{re.escape(PLACE)}([^"]+)"', text)
        }
        names -= found
    return found


def _allow_references(definition: dict[str, Any], is_edit: bool) -> None:
    """Let references stand in place of the values of a mapping, and of the entries of its lists."""
    for key, value in definition.get("properties", {}).items():
        if not (is_edit and key == "name"):
            definition["properties"][key] = _allow(value)


def _allow(value: dict[str, Any]) -> dict[str, Any]:
    """Let a reference stand in place of a value, and of the values in it that are written here."""
    about = {key: value[key] for key in ABOUT if key in value}
    bare = {key: each for key, each in value.items() if key not in ABOUT}
    forms = bare.get("anyOf", [bare])
    return about | {"anyOf": [*map(_allow_within, forms), {"$ref": f"{PLACE}Reference"}]}


def _allow_within(form: dict[str, Any]) -> dict[str, Any]:
    """Let references stand in place of the entries of a list, or the values of a mapping."""
    changed = dict(form)
    if isinstance(form.get("items"), dict):
        changed["items"] = _allow(form["items"])
    if "properties" in form:
        changed["properties"] = {key: _allow(each) for key, each in form["properties"].items()}
    return changed
