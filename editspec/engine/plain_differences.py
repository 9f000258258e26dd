"""Differences of plain values, as lines for people. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def plain_differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The differences of two plain values, as lines ``path: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        # The order of `old`, then that of `new`: equal inputs give equal lines.
        for name in dict.fromkeys([*old, *new]):
            below = f"{path}.{name}" if path else str(name)
            yield from plain_differences(old.get(name), new.get(name), below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from plain_differences(was, now, f"{path}[{index}]")
    # In Python 1, 1.0 and True are equal, and in a spec they are not.
    elif old != new or type(old) is not type(new):
        yield f"{path}: {shorten(old)} -> {shorten(new)}"


def file_differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """The files that both have with different digests, as lines."""
    for name in new:
        if name in old and old[name] != new[name]:
            yield f"{name}: its content"


def shorten(value: Any) -> str:
    """Write a value in at most 40 characters."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
