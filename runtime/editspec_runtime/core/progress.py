"""Callbacks that tell how far a long work is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


ProgressCallback = Callable[[str, int, int], None]


"""Called with (what is being done, done, of all)."""


def no_progress(what: str, done: int, total: int) -> None:
    """The report that says nothing."""
