"""What pydantic finds wrong with a value, in words of the language. Imports no torch."""

from __future__ import annotations

import difflib
from typing import Any

from editspec_compiler.document import kind
from editspec_compiler.row_files import FORMATS
from editspec_compiler.schema import LONGEST_NAME
from editspec_runtime.codes import Code

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
"""The value that was expected, by pydantic's name of the error."""

LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
LIMIT_ERRORS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")

LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}

PATTERNS = {
    "0-9a-f": ("a digest", "64 hexadecimal digits, or sha256: and 64 of them"),
    ":[": (
        "package.module:name",
        "write the module as Python imports it (without .py), a colon, and what to take from it",
    ),
    "": ("a name that can be part of a file's", "letters, digits, '.', '_' and '-'"),
}
"""By a mark in the pattern: the text that it wants, and a hint. The empty mark fits any pattern."""


def describe_misfit(what: str, given: Any, context: dict[str, Any]) -> tuple[str, str, Code]:
    """Say in words what does not fit; return a hint, if there is one, and the code."""
    if what == "float_type" and type(given) is int:
        # pydantic takes whole numbers for numbers, but for those that no double can hold.
        return "too large for a number", "write a smaller number", Code.VALUE_OUT_OF_RANGE
    if what in WANTED:
        return (
            f"expected {WANTED[what]}, found {kind(given)}",
            _advise(what, given),
            Code.TYPE_WRONG,
        )
    if what == "literal_error":
        return _misspelt(given, context["expected"].replace("'", ""))
    if what in LIMIT_ERRORS:
        name = next(name for name in LIMITS if name in context)
        found = kind(given).removeprefix("the number ")
        message = f"must be {LIMITS[name]} {_shorten(context[name])}, found {found}"
        return message, "", Code.VALUE_OUT_OF_RANGE
    if what in LENGTHS:
        side, key = LENGTHS[what]
        noun = "entry" if context[key] == 1 else "entries"
        message = (
            f"must have {side} {context[key]} {noun}, found {context['actual_length'] or 'none'}"
        )
        return message, "", Code.LENGTH_WRONG
    if what == "string_too_short":
        return "the text is empty", "", Code.LENGTH_WRONG
    if what == "string_too_long":
        message = f"must have at most {context['max_length']} letters, found {len(given)}"
        return message, "", Code.LENGTH_WRONG
    if what == "string_pattern_mismatch":
        mark = next(mark for mark in PATTERNS if mark in context["pattern"])
        wanted, hint = PATTERNS[mark]
        if not mark and isinstance(given, str) and len(given) > LONGEST_NAME:
            message = f"a name of {len(given)} letters, and {LONGEST_NAME} are the most"
            return message, "write a shorter one", Code.NAME_UNFIT
        return f"{kind(given)} is not {wanted}", hint, Code.NAME_UNFIT
    return "does not fit the language", "", Code.SPEC


def _shorten(limit: float) -> str:
    """Write a limit without the decimals of a whole number."""
    return str(int(limit) if limit == int(limit) else limit)


def _advise(what: str, given: Any) -> str:
    """Write a hint where a text stands for a value of another kind; empty elsewhere."""
    if not isinstance(given, str):
        return ""
    if what == "list_type" and given.lower().endswith(FORMATS):
        return f"write {{file: {given}}} if it is a file of entries"
    # The strict types of the language take no text for a number.
    if what == "int_type" and given.lstrip("+-").isdigit():
        return "take the quotes off"
    # In YAML 1.2, yes, no, on and off are texts.
    return "write true or false, without quotes" if what.startswith("bool") else ""


def _misspelt(given: Any, expected: str) -> tuple[str, str, Code]:
    """Describe a word that is none of `expected`, which reads ``a, b or c``."""
    message = f"expected {expected}, found {kind(given)}"
    words = expected.replace(" or ", ", ").split(", ")
    hint = ""
    if isinstance(given, str) and given in words:
        hint = "take the quotes off"
    elif isinstance(given, str):
        close = difflib.get_close_matches(given, words, n=1, cutoff=0.5)
        if close:
            hint = f'did you mean "{close[0]}"?'
    return message, hint, Code.WORD_UNKNOWN
