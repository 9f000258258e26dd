"""Samples: the items that statistics are taken over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class Sample(Protocol):
    """A finite sample of a model's inputs, whose items are the same in whatever order they come."""

    @property
    def count(self) -> int:
        """How many items there are."""

    @property
    def longest(self) -> int | None:
        """Positions of the longest item, where layers have no number of positions of their own."""

    def first(self, count: int) -> Sample:
        """The sample of the first `count` items, or of all where there are fewer."""

    def fingerprint(self) -> list[Any]:
        """What the items depend on, as plain values; equal samples have equal fingerprints."""

    def batches(self, model: Any, size: int, numbers: range) -> Iterator[Any]:
        """Yield the items of these `numbers` in order, `size` at a time, as `model` takes them.

        A batch has the same items in every call, so that it gives the same bits.
        """
