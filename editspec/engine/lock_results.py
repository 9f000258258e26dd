"""What a build gave, beside what its lock says that it gives. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editspec.engine.lock import Lock, LockedEdit
from editspec.engine.plain_differences import plain_differences
from editspec_runtime.errors import LockError


@dataclass(frozen=True)
class UncomparedEdit:
    """An edit that cannot be compared with the lock, which is of another environment.

    Attributes
    ----------
    name
        The name of the edit.
    environment
        What differs, as lines ``name: lock -> here``.
    artifacts
        The artifacts that differ; none where all are equal all the same.
    """

    name: str
    environment: tuple[str, ...]
    artifacts: tuple[str, ...]

    def to_line(self) -> str:
        """One line for people."""
        equal = "all digests are equal all the same"
        found = f"{', '.join(self.artifacts)} differ" if self.artifacts else equal
        return (
            f"{self.name}: could not be compared with the lock, which is of another environment "
            f"({'; '.join(self.environment)}): {found}"
        )


def list_uncompared(lock: Lock, built: Sequence[LockedEdit]) -> tuple[UncomparedEdit, ...]:
    """The edits that were built in another environment than that of the lock."""
    found = []
    for edit in built:
        before = lock.edit(edit.name)
        if before is None or before.environment == edit.environment:
            continue
        lines = tuple(plain_differences(before.environment, edit.environment))
        artifacts = tuple(_list_differing(before, edit))
        found.append(UncomparedEdit(edit.name, lines, artifacts))
    return tuple(found)


def require_same_artifacts(lock: Lock, built: Sequence[LockedEdit]) -> None:
    """Raise a `LockError` where an edit has other results than in the lock.

    Only edits that were built in the environment of the lock count: bits differ in others.
    """
    differences: list[str] = []
    for edit in built:
        before = lock.edit(edit.name)
        if before is not None and before.environment == edit.environment:
            differences += _artifact_differences(before, edit)
    if differences:
        raise LockError(
            "The environment is that of the lock, and the results are not:\n  "
            + "\n  ".join(differences),
            "The lock was edited, or something that the environment does not name has changed: "
            "build again without --frozen, and look at what changed.",
        )


def _artifact_differences(locked: LockedEdit, built: LockedEdit) -> list[str]:
    """The artifacts of an edit that differ between two builds of it."""
    found = []
    for name in _list_differing(locked, built):
        was, now = getattr(locked, name), getattr(built, name)
        found.append(f"{built.name}: {name}: {was} -> {now}")
    return found


def _list_differing(locked: LockedEdit, built: LockedEdit) -> list[str]:
    """The names of the artifacts that differ."""
    names = ("second_moment", "rule", "patch", "result")
    return [name for name in names if getattr(locked, name) != getattr(built, name)]
