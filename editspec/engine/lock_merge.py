"""Locks of two branches, merged edit by edit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from editspec.engine.lock import Lock, LockedEdit
from editspec_compiler.pins import Pin


@dataclass(frozen=True)
class MergedLock:
    """A lock of two sides.

    Attributes
    ----------
    lock
        The lock. Each of its edits is whole from one side, so that it is what some build gave.
    both
        The edits that both sides changed, each in its own way; the lock has those of our side.
    """

    lock: Lock
    both: tuple[str, ...] = ()


def merge_locks(base: Lock | None, ours: Lock, theirs: Lock) -> MergedLock:
    """Merge the locks of two sides that come from one `base`.

    An edit that only one side changed, added or removed is taken from that side. Whether the edit
    still stands on the weights that the edit before it leaves is not decided here: a plan compares
    its ``parent``, and lets it be built where it does not.
    """
    pins = {"sources": _merge_pins(base, ours, theirs)}
    if _shared(ours) != _shared(theirs):
        # Entries belong to the weights and settings that they were built under. A mixture of
        # settings would let a plan believe entries that were built under other ones.
        is_theirs = base is not None and _shared(base) == _shared(ours)
        return MergedLock((theirs if is_theirs else ours).model_copy(update=pins))
    both: list[str] = []
    edits: list[LockedEdit] = []
    for name in _merge_order(ours, theirs):
        old = None if base is None else base.edit(name)
        mine, other = ours.edit(name), theirs.edit(name)
        if mine != other and old not in (mine, other):
            both.append(name)
        kept = other if mine == old else mine
        # An edit that one side removed and the other one changed stays: a plan does not ask for it
        # where the spec does not have it.
        if kept is None and old not in (mine, other):
            kept = other
        if kept is not None:
            edits.append(kept)
    return MergedLock(ours.model_copy(update={"edits": edits, **pins}), tuple(both))


def _merge_pins(base: Lock | None, ours: Lock, theirs: Lock) -> list[Pin]:
    """Merge the commits of sources as edits are merged: what one side changed is of that side.

    Where both sides moved a source, it is where ours moved it. Edits of theirs that were built from
    another commit are then built again, as a plan compares what the commit gives.
    """
    old, mine, other = (_pins_of(each) for each in (base, ours, theirs))
    merged = {}
    for source in sorted(mine.keys() | other.keys()):
        kept = other.get(source) if mine.get(source) == old.get(source) else mine.get(source)
        if kept is not None:
            merged[source] = kept
    return list(merged.values())


def _pins_of(lock: Lock | None) -> dict[str, Pin]:
    return {} if lock is None else {pin.source: pin for pin in lock.sources}


def _shared(lock: Lock) -> tuple[object, ...]:
    """All that the edits of a lock depend on besides their own entries."""
    return lock.weights, lock.settings


def _merge_order(ours: Lock, theirs: Lock) -> list[str]:
    """All names in our order; each that only they have stands behind the one before it there."""
    names = [edit.name for edit in ours.edits]
    place = 0
    for edit in theirs.edits:
        if edit.name not in names:
            names.insert(place, edit.name)
        place = names.index(edit.name) + 1
    return names
