"""A session at one edit of its spec, with the edits before it applied."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec, Problem, SpecError, load
from editspec_compiler.problems import suggest
from editspec_runtime.codes import Code
from editspec_runtime.core.progress import ProgressCallback


def open_at_edit(
    spec: Path | str | LoadedSpec, edit: str | None, device: str, progress: ProgressCallback
) -> tuple[BuildSession, int]:
    """Open a session with the edits before `edit` applied.

    Returns the session and the number of `edit`, from 0. Without `edit`, the first edit is taken.
    Raises `SpecError` where no edit has the name.
    """
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    loaded.require_edits()
    names = [each.name for each in loaded.spec.edits]
    if edit is not None and edit not in names:
        message, hint = f"there is no edit {edit}", suggest(edit, names)
        raise SpecError("--edit", [Problem(message, hint=hint, code=Code.OPTION_UNFIT)])
    number = 0 if edit is None else names.index(edit)
    session = BuildSession.of(loaded, device, progress)
    for before in range(number):
        session.edit(before)
    return session, number
