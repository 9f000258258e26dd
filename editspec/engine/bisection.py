"""Bisection over a stack: an edit after which a measure exceeds a bound, and not before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """The values of the first edits of a stack that were tried, and where they cross a bound.

    Attributes
    ----------
    values
        The measure after the first k edits, for each k that was tried; ascending.
    found
        The least k that is known to exceed the bound while k - 1 keeps it; None where all edits
        together keep it.
    first
        The least k that was looked at.
    """

    values: dict[int, float]
    found: int | None

    first: int = 0

    @property
    def untried(self) -> list[int]:
        """The counts of edits below `found` that were not tried, and may exceed the bound, too."""
        last = self.found or max(self.values)
        return [count for count in range(self.first + 1, last) if count not in self.values]


def find_crossing(
    count: int, measure: Callable[[int], float], keeps: Callable[[float], bool], first: int = 0
) -> Crossing:
    """Find where a measure of the first k of `count` edits ceases to keep a bound.

    `measure` takes k from `first`, which is taken to keep the bound where it is 0. A measure need
    not change in one direction with k. Between an end that keeps the bound and one that does not
    there is still a place where it is crossed, and halving finds one in log2(count) + 1
    measurements. It need not be the only one.
    """
    values = {count: measure(count)}
    if keeps(values[count]):
        return Crossing(values, None, first)
    if first:
        values[first] = measure(first)
        if not keeps(values[first]):
            return Crossing(dict(sorted(values.items())), first, first)
    low, high = first, count
    while high - low > 1:
        middle = (low + high) // 2
        values[middle] = measure(middle)
        if keeps(values[middle]):
            low = middle
        else:
            high = middle
    return Crossing(dict(sorted(values.items())), high, first)
