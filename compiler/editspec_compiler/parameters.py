"""Parameters of recipes: whole values of edits that another spec may choose. Imports no torch.

A reference, ``{parameter: NAME}``, stands in the place of a value, and the value is put there as it
is. Nothing is replaced within a text, so that a value cannot become anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from editspec_compiler.document import Document, kind
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import AnySpec, ParameterType
from editspec_runtime.codes import Code

REFERENCE = "parameter"
"""The only key of a mapping that stands for the value of a parameter."""

WORDS: dict[str, str] = {
    "integer": "an integer",
    "number": "a number",
    "text": "a text",
    "boolean": "true or false",
    "mask": "a mask: the name of a file, or a mapping with a shape",
    "place": "a place, which is a mapping",
    "list": "a list",
}
"""Each type of a parameter in words."""

PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "text": (str,),
    "boolean": (bool,),
    "mask": (str, dict),
    "place": (dict,),
    "list": (list,),
}


def find_type_misfit(word: ParameterType | Any, value: Any) -> str:
    """Say how a value differs from the type of its parameter; empty where it does not.

    What is inside of a mapping or a list is for the language to say, at the place where it goes.
    """
    types = PLAIN_TYPES.get(word) if isinstance(word, str) else None
    if types is None or is_reference(value):
        return ""
    # In Python a truth value is an integer, too.
    if isinstance(value, types) and isinstance(value, bool) == (types == (bool,)):
        return ""
    return f"expected {WORDS[word]}, found {kind(value)}"


def is_reference(value: Any) -> bool:
    """Whether a value stands for that of a parameter."""
    return isinstance(value, dict) and list(value) == [REFERENCE]


def find_references(part: Any, path: SpecPath = ()) -> Iterator[tuple[SpecPath, str]]:
    """Find the references in plain data: their paths, and the names of the parameters.

    A name that is not a text is empty.
    """
    if is_reference(part):
        name = part[REFERENCE]
        yield path, name if isinstance(name, str) else ""
        return
    for key, value in _below(part):
        yield from find_references(value, (*path, key))


def fill_references(
    part: Any, values: Mapping[str, Any], filled: dict[SpecPath, str], path: SpecPath = ()
) -> Any:
    """Copy plain data with values in place of the references to them.

    References within these values stay. `filled` gets the paths of the values, and their names.
    """
    if is_reference(part):
        name = part[REFERENCE]
        if not isinstance(name, str) or name not in values:
            return part
        filled[path] = name
        return values[name]
    if isinstance(part, dict):
        items = part.items()
        return {key: fill_references(value, values, filled, (*path, key)) for key, value in items}
    if isinstance(part, list):
        numbered = enumerate(part)
        return [fill_references(each, values, filled, (*path, index)) for index, each in numbered]
    return part


def find_unfit_defaults(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """Find defaults of parameters that are not of their types."""
    for name, each in spec.parameters.items():
        if each.default is None:
            continue
        if misfit := find_type_misfit(each.type, each.default):
            path: SpecPath = ("parameters", name, "default")
            hint = f"{name} is of type {each.type}: change one of the two"
            yield document.problem(path, misfit, hint, code=Code.TYPE_WRONG)


def _below(part: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(part, dict):
        yield from part.items()
    elif isinstance(part, list):
        yield from enumerate(part)
