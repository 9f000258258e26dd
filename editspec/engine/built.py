"""One edit of a build: its rule, its patch, and all that is known of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from editspec.engine.lock import LockedEdit
from editspec_runtime.core.rule import ResolvedEdit
from editspec_runtime.patches.patch import Patch

TARGETS, STATISTICS = "targets", "statistics"
"""The stages in which values are searched for, and C is taken; they lie within others, too."""

STAGES = ("compile", TARGETS, STATISTICS, "solve")


@dataclass(frozen=True)
class BuiltEdit:
    """One edit of a build.

    Attributes
    ----------
    rule
        The edit with its rules resolved.
    patch
        The change of the weights that solves the rules.
    loss
        mean |V* - f(K*; W)| with the weights that the patch gives. For a method about outputs, the
        mean absolute difference of the outputs.
    seconds
        The time that ``compile``, ``targets`` (values that are searched for), ``statistics`` and
        ``solve`` took; 0 for a stage whose result was
        there already.
    status
        The status before the build: ``new``, ``changed``, ``dependent``, ``missing`` or
        ``up to date``.
    locked
        The entry of the edit in the lock.
    path
        The patch file; None where nothing was written.
    residual
        |V* - f(K*; W)| with these weights relative to the residual with the weights before; None
        where it was not measured.
    warnings
        What is to be said of the edit, although its numbers are right.
    """

    rule: ResolvedEdit
    patch: Patch
    loss: float
    seconds: dict[str, float]
    status: str
    locked: LockedEdit
    path: Path | None = None
    residual: float | None = None
    warnings: tuple[str, ...] = ()


@contextmanager
def time_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of a stage."""
    begun = time.perf_counter()
    yield
    seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - begun, 4)


def take_stages(seconds: dict[str, float], spent: dict[str, float], around: str) -> None:
    """Move the seconds that were `spent` in stages to them, from the stage `around` them."""
    for stage, inner in spent.items():
        seconds[stage] = round(seconds[stage] + inner, 4)
        seconds[around] = round(max(0.0, seconds[around] - inner), 4)
    spent.clear()
