"""Callbacks for the progress of long work. This module imports no torch."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""A callback that takes the name of the work, the amount done and the whole amount."""

StepCallback = Callable[[int, int], None]
"""A callback that takes the amount done and the whole amount. Its caller names the work."""

LossCallback = Callable[[int, float], None]
"""A callback that takes the number of steps done and the loss after them.

A method calls it wherever it computes the loss of a change that it may return.
"""

NoteCallback = Callable[[str], None]
"""A callback that takes a clause on how a method went on where it could not do as it was asked."""


def no_progress(what: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def ignore_steps(done: int, total: int) -> None:
    """A step callback that does nothing."""


def ignore_loss(step: int, loss: float) -> None:
    """A loss callback that does nothing."""


def ignore_note(note: str) -> None:
    """A note callback that does nothing."""
