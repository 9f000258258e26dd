"""``editspec plan``: the work that a build would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from editspec.engine.plan import Plan, make_plan
from editspec.engine.policy import load_obeying
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


def plan(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    detailed_exitcode: bool = False,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> Plan:
    """Plan a build of a spec, and solve nothing.

    Parameters
    ----------
    out
        The folder of an earlier build, whose patches would be taken.
    detailed_exitcode
        Whether the exit code of the result says that there is something to build: 3.

    Raises
    ------
    SpecError
        The spec or its lock is wrong, or the spec breaks the policy of its project.
    EditError
        The weights are wrong.
    """
    folder = Path(out) if out is not None else None
    plan = make_plan(BuildSession.of(load_obeying(spec), device, progress, folder))
    return replace(plan, detailed_exitcode=detailed_exitcode)
