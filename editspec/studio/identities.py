"""The identities of edits: which edit of a changed text is which edit of the text before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

Identities = tuple[int, ...]
"""A number for each edit of a text, on or off, by which its results are found again."""


def new_identities(edits: Sequence[Any]) -> Identities:
    """Number edits that nobody has seen before."""
    return tuple(range(len(edits)))


def follow_edits(
    before: Sequence[Any], identities: Identities, after: Sequence[Any], used: Iterable[int]
) -> Identities:
    """Find the identities of the edits of a changed text.

    An edit is the one before that has the same content, else the one of the same name, else the one
    that is the same but for its name. Any other edit is new.

    Parameters
    ----------
    before, after
        The edits of both texts.
    identities
        Those of `before`.
    used
        The identities that a new edit may not get.
    """
    found: dict[int, int] = {}
    left = dict(enumerate(identities[: len(before)]))

    def match(is_same: Callable[[int, int], bool]) -> None:
        for new in range(len(after)):
            if new in found:
                continue
            old = next((each for each in left if is_same(each, new)), None)
            if old is not None:
                found[new] = left.pop(old)

    match(lambda old, new: bool(before[old] == after[new]))
    match(lambda old, new: _name(before[old]) == _name(after[new]))
    match(lambda old, new: bool(_nameless(before[old]) == _nameless(after[new])))
    fresh = count(max([-1, *used, *identities]) + 1)
    return tuple(found[new] if new in found else next(fresh) for new in range(len(after)))


def _nameless(edit: Any) -> object:
    """Return an edit without its name; what is not an edit is like no other."""
    if not isinstance(edit, dict):
        return object()
    return {key: value for key, value in edit.items() if key != "name"}


def _name(edit: Any) -> object:
    """Return the name of an edit; an edit without one has the name of no other."""
    name = edit.get("name") if isinstance(edit, dict) else None
    return object() if name is None else name
