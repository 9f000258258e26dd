"""The reference of the language, from its JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from editspec_compiler.json_schema import json_schema
from website.markdown import cell, table

HEAD = """# The language, key by key

Made from the JSON Schema that `editspec schema` prints.
[The language](../docs/language.md) explains it.
"""

BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}

REFERENCE = {"$ref": "#/$defs/Reference"}
"""What stands for the value of a parameter."""

Schema = dict[str, Any]


def write_language() -> str:
    """Write the page: a section for each part of the language, in the order of a spec."""
    schema = json_schema()
    definitions: dict[str, Schema] = schema["$defs"]
    parts = [HEAD]
    for key in walk_parts(schema["oneOf"], definitions):
        parts.append(write_part(key, definitions[key]))
    return "\n".join(parts)


def walk_parts(begin: Any, definitions: dict[str, Schema]) -> Iterator[str]:
    """Walk the parts that a schema refers to, each before those that it is made of."""
    seen: set[str] = set()
    waiting = list(references(begin))
    while waiting:
        key = waiting.pop(0)
        if key not in seen:
            seen.add(key)
            yield key
            waiting = [*references(definitions[key]), *waiting]


def references(schema: Any) -> Iterator[str]:
    """Find the parts that a schema names, in their order."""
    if isinstance(schema, list):
        for each in schema:
            yield from references(each)
    elif isinstance(schema, dict):
        if "$ref" in schema:
            yield part_of(schema)
        for value in schema.values():
            yield from references(value)


def part_of(reference: Schema) -> str:
    """The key of the part that a reference names."""
    return str(reference["$ref"]).removeprefix("#/$defs/")


def title_of(key: str) -> str:
    """Write the title of a part: ``ImageSpec_stylegan2`` is "Image spec: stylegan2"."""
    modality = re.fullmatch(r".*__modalities__(\w+)__schema__(\w+)", key)
    if modality:
        return f"{title_of(modality[2])}: {modality[1]}"
    name, _, rest = key.partition("_")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
    return f"{words}: {rest}" if rest.isalnum() else words


def anchor_of(key: str) -> str:
    """Write the anchor of a part."""
    return re.sub(r"\W+", "-", title_of(key).lower())


def write_part(key: str, part: Schema) -> str:
    """Write the section of one part: its description, and a table of its keys."""
    required = set(part.get("required", ()))
    rows = []
    for name, field in part.get("properties", {}).items():
        default = "required" if name in required else default_of(field)
        rows.append((f"`{name}`", kind_of(field), default, cell(field.get("description"))))
    head = f"## {title_of(key)} {{#{anchor_of(key)}}}\n\n{part.get('description', '')}\n\n"
    return head + table(("key", "value", "default", "meaning"), rows)


def default_of(field: Schema) -> str:
    """Write the default of a field; of a mapping the value that tells it from others."""
    default = field.get("default")
    if default is None:
        return "none"
    if isinstance(default, dict):
        default = default.get("method", default)
    if default in ([], {}):
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def kind_of(schema: Schema) -> str:
    """Write which values a schema takes."""
    if "$ref" in schema:
        key = part_of(schema)
        return f"[{title_of(key)}](#{anchor_of(key)})"
    if "const" in schema:
        return f"`{json.dumps(schema['const']).strip(chr(34))}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema and "properties" not in schema:
            # Any value of an edit may be that of a parameter, which docs/language.md says once.
            forms = [each for each in schema[union] if each != REFERENCE]
            kinds = (kind_of(each) for each in forms if each.get("type") != "null")
            return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return list_of(schema)
    if schema.get("type") == "object":
        return mapping_of(schema)
    return number_of(schema)


def list_of(schema: Schema) -> str:
    """Write which lists a schema takes."""
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = f" of {least}" if least and least == most else ""
    return f"list{count}: {kind_of(schema.get('items', {}))}"


def mapping_of(schema: Schema) -> str:
    """Write which mappings a schema takes."""
    if "properties" in schema:
        return "`{" + ", ".join(f"{name}: …" for name in schema["properties"]) + "}`"
    values = schema.get("additionalProperties")
    return f"mapping to {kind_of(values)}" if isinstance(values, dict) else "mapping"


def number_of(schema: Schema) -> str:
    """Write which numbers or texts a schema takes."""
    kind = {"string": "text", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "anything")
    )
    bounds = [text.format(amount(schema[key])) for key, text in BOUNDS.items() if key in schema]
    return ", ".join([kind, *bounds])


def amount(number: float) -> str:
    """Write a bound; a power of two beyond the words of a machine as such."""
    return "2^64" if number == 2**64 else f"{number:,}"
