"""Figures of benchmarks, each with its aim; or why a benchmark could not run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


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


def timed(job: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """The seconds of a job, and what it gives; on a GPU until the last of it is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    result = job()
    wait()
    return time.perf_counter() - begun, result
