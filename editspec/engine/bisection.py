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
    """

    values: dict[int, float]
    found: int | None

    @property
    def untried(self) -> list[int]:
        """The counts of edits below `found` that were not tried, and may exceed the bound, too."""
        last = self.found or max(self.values)
        return [count for count in range(1, last) if count not in self.values]


def find_crossing(count: int, measure: Callable[[int], float], at_most: float) -> Crossing:
    """Find where a measure of the first k of `count` edits begins to exceed a bound.

    `measure` takes k from 1; no edits measure 0. A measure need not grow with k. Between an end
    that keeps the bound and one that exceeds it there is still a place where it is crossed, and
    halving finds one in log2(count) + 1 measurements. It need not be the only one.
    """
    values = {count: measure(count)}
    if values[count] <= at_most:
        return Crossing(values, None)
    keeps, exceeds = 0, count
    while exceeds - keeps > 1:
        middle = (keeps + exceeds) // 2
        values[middle] = measure(middle)
        if values[middle] > at_most:
            exceeds = middle
        else:
            keeps = middle
    return Crossing(dict(sorted(values.items())), exceeds)
