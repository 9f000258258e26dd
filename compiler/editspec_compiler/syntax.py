"""What is wrong with a text that is not YAML, in words."""

from __future__ import annotations

import yaml

from editspec_compiler.characters import describe_lookalike, find_nearby
from editspec_compiler.problems import LINE_BREAK, Problem
from editspec_runtime.codes import Code

MAX_NODES = 50_000
"""The number of values that a spec may have."""


class TooMany(yaml.MarkedYAMLError):
    """More nodes than a spec may have."""


SYNTAX = (
    ("could not find expected ':'", "this key has no colon behind it", "write key: value"),
    (
        "mapping values are not allowed",
        "a colon stands where no key can be",
        "put text with a colon in quotes, and every key on a line of its own",
    ),
    (
        "but got ':'",
        "a colon stands where a list or a mapping in brackets goes on",
        "separate entries by commas, and put text with a colon in quotes",
    ),
    (
        "expected ',' or",
        "a list or a mapping in brackets does not go on here",
        "separate entries by commas, and close every bracket",
    ),
    ("expected <block end>", "this line is not indented as those before it", "align the keys"),
    ("found character '\\t'", "a tab stands at the beginning of a line", "indent with spaces"),
    ("undefined alias", "no anchor has the name of this alias", "write &NAME before the value"),
    ("duplicate anchor", "an anchor of this name is there already", "take another name"),
    ("end of stream", "the text ends inside of quotes or brackets", "close what is open"),
    ("escape character", "there is no such escape in double quotes", "write two backslashes"),
    ("cannot start any token", "a value cannot begin with this character", "put it in quotes"),
)
"""A mark in pyyaml's message, which nobody is shown; what is wrong in our words; and a hint."""


def syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """Say in our words what pyyaml could not read, and where."""
    if isinstance(error, yaml.reader.ReaderError):
        line, column = place_of(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} must not stand in a spec"
        hint = "write it as an escape in double quotes"
        return Problem(message, (), line, column, hint, Code.TEXT_SYNTAX)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place: tuple[int, int] = (0, 0)
    if mark is not None:
        place = (mark.line + 1, mark.column + 1)
    if isinstance(error, TooMany):
        message, hint = f"more than {MAX_NODES} values", "keep vectors in files"
        return Problem(message, (), *place, hint, Code.TEXT_TOO_LARGE)
    if getattr(error, "context", None) == "expected a single document in the stream":
        message = "a spec is one document, and another begins here"
        hint = "leave the line --- out, or write another file"
        return Problem(message, (), *place, hint, Code.TEXT_SYNTAX)
    if mark is not None and (at := find_nearby(text, mark.index)) is not None:
        message, hint = describe_lookalike(text[at])
        return Problem(message, (), *place_of(text, at), hint, Code.TEXT_LOOKALIKE)
    message, hint = "from here on, the text cannot be read", "put text with signs in quotes"
    for mark_text, words, what_to_do in SYNTAX:
        if mark_text in str(error):
            message, hint = words, what_to_do
            break
    return Problem(f"not YAML: {message}", (), *place, hint, Code.TEXT_SYNTAX)


def place_of(text: str, index: int) -> tuple[int, int]:
    """Return the line and column, from 1, of a character."""
    *_, last = lines = LINE_BREAK.split(text[:index])
    return len(lines), len(last) + 1
