"""``editspec lock``: the lock of a spec, written or checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editspec.engine.lock import (
    Lock,
    lock_path,
    require_place,
    write_lock,
)
from editspec_compiler import LoadedSpec

if TYPE_CHECKING:
    pass
from editspec.engine.session import BuildSession
from editspec_runtime.core.progress import ProgressCallback, no_progress


def lock(
    spec: Path | str | LoadedSpec, *, device: str = "auto", progress: ProgressCallback = no_progress
) -> Lock:
    """Build a spec into the cache alone, write ``SPEC.lock``, and return it. Raises as `build`
    does.
    """
    session = BuildSession.of(spec, device, progress)
    require_place(lock_path(session.loaded.path))
    made = session.new_lock(
        [session.edit(number) for number in range(len(session.loaded.spec.edits))]
    )
    write_lock(lock_path(session.loaded.path), made)
    return made


def check_lock(spec: Path | str | LoadedSpec) -> Lock:
    """The lock of a spec, where every input is as it says; nothing is built.

    Patches and rules in the cache that bear the digests of the lock are what they were by these
    very digests; what comes out of a new build is compared by ``build --frozen``.

    Raises
    ------
    LockError
        There is no lock, or an input has changed.
    """
    session = BuildSession.of(spec, "cpu", no_progress)
    session.require_unchanged()
    assert session.lock is not None
    return session.lock
