"""What a benchmark gives: figures, each beside what is aimed at; or why it could not run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number that was measured.

    Attributes
    ----------
    name
        What was measured.
    value, unit
        The number.
    aim
        What it is to reach, such as ``at least 20``; empty where there is no aim.
    reached
        Whether it did; None where there is no aim.
    details
        What the number was made of, by name.
    """

    name: str
    value: float
    unit: str
    aim: str = ""
    reached: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def at_least(name: str, value: float, least: float, **details: Any) -> Figure:
        """How many times as fast, and whether that is enough."""
        return Figure(name, value, "times", f"at least {least:g}", value >= least, details)


class CannotRun(Exception):
    """A benchmark has no place to run here, and says why."""


def medians(jobs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median seconds of each job. The jobs take turns, so that what else the machine does slows all of them."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for job in jobs:
        job()  # memory and caches as they are later
    for _ in range(rounds):
        for job, taken in zip(jobs, seconds, strict=True):
            begun = time.perf_counter()
            job()
            taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in seconds]
