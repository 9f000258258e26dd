"""``editspec statistics``: the second moment of every edited layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editspec_compiler import LoadedSpec
from editspec_runtime.maths.moments import (
    SecondMoment,
)

if TYPE_CHECKING:
    pass
from editspec.engine.session import BuildSession
from editspec_runtime.core.progress import ProgressCallback, no_progress


def statistics(
    spec: Path | str | LoadedSpec, *, device: str = "auto", progress: ProgressCallback = no_progress
) -> list[tuple[str, str, SecondMoment]]:
    """Edit, layer and second moment of every edit, on the model as the edits before left it."""
    session = BuildSession.of(spec, device, progress)
    edits = session.loaded.spec.edits
    found = []
    for number, edit in enumerate(edits):
        found.append(
            (edit.name, edit.layer, session.second_moment(session.generator(), edit.layer))
        )
        if number < len(edits) - 1:
            session.edit(number)
    return found
