"""Figures of benchmarks, and the error of a benchmark that cannot run."""

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
        A name of the quantity.
    value, unit
        The number and its unit.
    aim
        The value to reach, such as ``at least 20``; empty where there is no aim.
    reached
        Whether the aim was reached; None where there is no aim.
    details
        The numbers behind the value, by name.
    """

    name: str
    value: float
    unit: str
    aim: str = ""
    reached: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def at_least(name: str, value: float, least: float, **details: Any) -> Figure:
        """Make the figure of a ratio of speeds that is to reach `least`."""
        return Figure(name, value, "times", f"at least {least:g}", value >= least, details)

    @staticmethod
    def at_most(name: str, value: float, most: float, unit: str, **details: Any) -> Figure:
        """Make the figure of a cost that is to stay within `most`."""
        return Figure(name, value, unit, f"at most {most:g}", value <= most, details)


class CannotRun(Exception):
    """A benchmark that cannot run on this machine; the message says why."""


def measure_seconds(job: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Measure the seconds of a job by the clock, and return them with its result."""
    _wait_for(device)
    begun = time.perf_counter()
    result = job()
    _wait_for(device)
    return time.perf_counter() - begun, result


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has done its work; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
