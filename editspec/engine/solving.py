"""All edits of a spec solved, with nothing taken from an earlier build."""

from __future__ import annotations

from pathlib import Path

from editspec.engine.built import BuiltEdit
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.executor import Executor
from editspec_runtime.core.method import OutputLoss
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.io.cache import Cache


def solve(
    spec: Path | str | LoadedSpec,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
    cache: Cache | None = None,
    output_loss: OutputLoss | None = None,
    executor: Executor | None = None,
) -> list[BuiltEdit]:
    """Compile and solve every edit of a spec, and write to nothing but the cache.

    Parameters
    ----------
    cache
        The cache of results. Default: the cache of `Resources`.
    output_loss
        The loss of methods that need outputs. Default: the mean absolute difference. The key of a
        cached solution does not name it, so that another loss needs a cache of its own.
    executor
        The executor of independent items of work. Default: the executor of `Resources`.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    session = BuildSession.of(
        spec, device, progress, cache=cache, output_loss=output_loss, executor=executor
    )
    return [session.solve(number) for number in range(len(session.loaded.spec.edits))]
