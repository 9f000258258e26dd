"""``editspec plan``: all that a build would do, before it does it."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.plan import Plan, make_plan
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


def plan(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> Plan:
    """Say what a build of a spec in the folder `out` would do on a `device`. Solves nothing.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    EditError
        The weights are.
    """
    folder = Path(out) if out is not None else None
    return make_plan(BuildSession.of(spec, device, progress, folder))
