"""``editspec statistics``: the second moment of every edited layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.maths.moment_cache import CachedMoment


@dataclass(frozen=True)
class EditMoment:
    """The second moment of the layer of an edit, with the edits before it built."""

    edit: str
    layer: str
    moment: CachedMoment

    def to_dict(self) -> dict[str, Any]:
        """The moment without its numbers, which its digest identifies."""
        return {
            "edit": self.edit,
            "layer": self.layer,
            "channels": len(self.moment.matrix),
            "cached": self.moment.cached,
            "digest": tensor_digest(self.moment.matrix),
        }

    def to_text(self) -> str:
        """One line."""
        plain = self.to_dict()
        line = f"{self.edit}: {self.layer}, {plain['channels']} channels, C {plain['digest']}"
        return f"{line}, cached" if self.moment.cached else line


@dataclass(frozen=True)
class StatisticsResult(CommandResult):
    """The second moments of a spec, in the order of its edits."""

    moments: tuple[EditMoment, ...]

    def to_dict(self) -> dict[str, Any]:
        """The moments without their numbers."""
        return {"statistics": [moment.to_dict() for moment in self.moments]}

    def to_text(self) -> str:
        """One line for each edit."""
        return "\n".join(moment.to_text() for moment in self.moments)


def statistics(
    spec: Path | str | LoadedSpec,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> StatisticsResult:
    """Compute and cache the second moment of every layer that a spec edits.

    The second moment is that of the keys, C = E[k k^T].

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    EditError
        The weights or the numbers are wrong.
    """
    session = BuildSession.of(spec, device, progress)
    edits = session.loaded.spec.edits
    moments = []
    for number, edit in enumerate(edits):
        for name in edit.layer_names:
            moment = session.second_moment(session.current_model(), name)
            moments.append(EditMoment(edit.name, name, moment))
        # The last edit need not be built: no moment is taken behind it.
        if number < len(edits) - 1:
            session.edit(number)
    return StatisticsResult(tuple(moments))
