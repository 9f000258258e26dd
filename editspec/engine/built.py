"""One edit of a build: its rule, its patch, and all that is known of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from editspec.engine.lock import LockedEdit
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import ResolvedEdit
from editspec_runtime.maths.sampled_keys import environment
from editspec_runtime.patches.patch import Patch

STAGES = ("compile", "statistics", "solve")


@dataclass(frozen=True)
class BuiltEdit:
    """One edit of a build.

    Attributes
    ----------
    rule
        What the compiler made of it.
    patch
        What the runtime made of the rule.
    loss
        mean |V* - f(K*; W)| with the weights that the patch gives; of a method about outputs the mean
        absolute difference of pixels.
    seconds
        How long ``compile``, ``statistics`` and ``solve`` took; 0 for what was there already.
    status
        What there was to do: ``new``, ``changed``, ``dependent``, ``missing`` or ``up to date``.
    locked
        What the lock says of it.
    path
        The patch file; None where nothing was written.
    residual
        |V* - f(K*; W)| with these weights, beside the same with the weights before; None where it was not measured.
    """

    rule: ResolvedEdit
    patch: Patch
    loss: float
    seconds: dict[str, float]
    status: str
    locked: LockedEdit
    path: Path | None = None
    residual: float | None = None


def lock_environment(model: Model) -> dict[str, str]:
    """What the bits of an edit depend on beside its inputs, by name: packages, precision, device,
    threads.
    """
    version, _, device, precision, threads = environment(model)
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow")}
    if device == "cpu":
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    precision = precision.removeprefix("torch.")
    return {
        "editspec": version,
        **packages,
        "device": device,
        "precision": precision,
        "threads": threads,
    }


@contextmanager
def time_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that this takes to those of a stage."""
    begun = time.perf_counter()
    yield
    seconds[stage] = round(seconds[stage] + time.perf_counter() - begun, 4)
