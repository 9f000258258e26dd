"""The reference of Python: a page of which mkdocstrings makes the reference, from docstrings."""

from __future__ import annotations

import inspect

import editspec
from editspec.commands.registry import COMMANDS, function_name

HEAD = """# Python, name by name

Every command is a function of the package `editspec`, with the same arguments.
Each returns a frozen result with `to_dict` and `to_text`. [From Python](../docs/python.md) shows
them at work. Made from the docstrings.
"""

RESULTS = "editspec.engine.result.CommandResult"


def write_python() -> str:
    """Write the page: the public functions, then the types that they return and raise."""
    functions = {function_name(name): place for name, place in COMMANDS.items()}
    places = {name: place_of(name) for name in editspec.__all__ if not name.startswith("_")}
    others = [places[name] for name in places if name not in functions]
    commands = [place.replace(":", ".") for place in functions.values()]
    shared = f"```text\n{inspect.getdoc(editspec)}\n```\n"
    return "\n".join([HEAD, shared, *(f"::: {place}\n" for place in [*commands, *others, RESULTS])])


def place_of(name: str) -> str:
    """The full name of what a public name stands for."""
    value = getattr(editspec, name)
    return f"{value.__module__}.{value.__qualname__}"
