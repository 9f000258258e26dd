"""Callbacks that tell how far a long work is. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with (the name of the work, how much is done, how much there is)."""

StepCallback = Callable[[int, int], None]
"""Called with (how much is done, how much there is), of a work that the caller names."""

LossCallback = Callable[[int, float], None]
"""Called with (steps done, the loss there), wherever a method looks at the loss of a change that it
may return.
"""


def no_progress(what: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def ignore_steps(done: int, total: int) -> None:
    """A step callback that does nothing."""


def ignore_loss(step: int, loss: float) -> None:
    """A loss callback that does nothing."""
