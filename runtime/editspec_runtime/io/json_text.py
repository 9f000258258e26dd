"""JSON of others, read with bounds on its depth and on the length of its numbers."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

NESTING = 100
"""How deep lists and mappings may be nested."""

DIGITS = 300
"""The digits that a whole number may have; to read it takes time with their square."""

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKET = re.compile(r"[\[\]{}]")


class JsonError(ValueError):
    """Text that is not JSON, or is beyond the bounds; says why, in words of ours."""


def parse_json(data: str | bytes, *, unique: bool = False) -> Any:
    """The value of a JSON text.

    Raises `JsonError` where the text is not JSON in UTF-8, holds NaN or infinity, is nested more
    than `NESTING` deep, or has a whole number of more than `DIGITS` digits; with `unique` where a
    key is in a mapping twice.
    """
    join = _join_unique if unique else None
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        _require_nesting(text)
        return json.loads(
            text,
            parse_int=_parse_int,
            parse_constant=_refuse_constant,
            object_pairs_hook=join,
        )
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError("the text is not JSON") from error


def _require_nesting(text: str) -> None:
    depth = 0
    for bracket in BRACKET.findall(QUOTED.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > NESTING:
            raise JsonError(f"the text is nested more than {NESTING} deep")


def _join_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    joined = dict(pairs)
    if len(joined) < len(pairs):
        raise JsonError("a key is here twice")
    return joined


def _parse_int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise JsonError(f"a number has {len(digits)} digits, and at most {DIGITS} are read")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")
