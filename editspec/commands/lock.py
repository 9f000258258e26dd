"""``editspec lock``: the lock of a spec, written or checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.lock import (
    Lock,
    lock_path,
    read_lock,
    require_place,
    require_unchanged,
    write_lock,
)
from editspec.engine.opening import open_checkpoint
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec, load
from editspec_runtime.core.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class LockResult(CommandResult):
    """A lock, and its path."""

    path: Path
    lock: Lock

    def to_dict(self) -> dict[str, Any]:
        """All that the lock holds, and its path."""
        return {"lock": str(self.path), **self.lock.model_dump()}

    def to_text(self) -> str:
        """One line for each edit."""
        return "\n".join(f"{edit.name}: patch {edit.patch}" for edit in self.lock.edits)


def lock(
    spec: Path | str | LoadedSpec,
    *,
    check: bool = False,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> LockResult:
    """Build a spec into the cache alone, and write ``SPEC.lock``.

    With `check` nothing is built and no model is opened: only the inputs are compared with the
    lock. The results of a new build are compared by ``build --frozen``.

    Raises
    ------
    LockError
        With `check`: there is no lock, or an input has changed.
    SpecError
        The spec or its lock is wrong.
    EditError
        The weights or the numbers are wrong.
    """
    if check:
        loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
        loaded.require_edits()
        path = lock_path(loaded.path)
        _, base = open_checkpoint(loaded, progress)
        return LockResult(path, require_unchanged(loaded, base, read_lock(path)))
    session = BuildSession.of(spec, device, progress)
    path = lock_path(session.loaded.path)
    require_place(path)
    built = [session.edit(number) for number in range(len(session.loaded.spec.edits))]
    made = session.new_lock(built)
    write_lock(path, made)
    return LockResult(path, made)
