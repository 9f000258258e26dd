"""Shapes and problems of tensors in words, for messages; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence


def say_shape(shape: Sequence[int | None]) -> str:
    """Say a shape in words; an axis of any length is None."""
    lengths = (str(length) for length in shape)
    return " x ".join(lengths).replace("None", "?") or "one number"


def fits_shape(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is the wanted one, in which None is an axis of any length."""
    if len(found) != len(wanted):
        return False
    pairs = zip(found, wanted, strict=True)
    return all(expected in (None, length) for length, expected in pairs)


def list_problems(problems: Sequence[str]) -> str:
    """Write problems one to a line, for the end of a message."""
    return "\n".join(f"  - {problem}" for problem in problems)
