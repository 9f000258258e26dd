"""Samples: the items that statistics are taken over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable


class Sample(Protocol):
    """A finite sample of a model's inputs, whose items do not depend on their order."""

    @property
    def count(self) -> int:
        """The number of items."""

    @property
    def longest(self) -> int | None:
        """The number of positions of the longest item.

        None where every layer has a number of positions of its own.
        """

    @property
    def positions(self) -> int | None:
        """The number of positions of all items; None where layers have a number of their own."""

    def first(self, count: int) -> Sample:
        """Make the sample of the first `count` items, or of all where there are fewer."""

    def fingerprint(self) -> list[Any]:
        """Everything that determines the items, as plain values.

        Equal samples have equal fingerprints.
        """

    def batches(self, model: Any, size: int, numbers: range) -> Iterator[Any]:
        """Yield the items of these `numbers`, in batches that `model` takes.

        Each batch has `size` items; the last one may have fewer. One batch has them in order;
        several may have them in another one. A batch has the same items in every call, because a
        model may give other bits for an item in another batch.
        """


@runtime_checkable
class Regularised(Protocol):
    """The power of a sample to say what C is besides the mean over its items.

    C is ridge I + share E[k k^T]. A sample without items gives the ridge alone.
    """

    @property
    def ridge(self) -> float:
        """What every direction costs."""

    @property
    def share(self) -> float:
        """The weight of the mean over the items."""
