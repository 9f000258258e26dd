"""Means over pictures or other items, with intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

DRAWS = 1000
"""How often items are drawn anew."""

CONFIDENCE = 0.95
"""The share of the draws that lies within an interval."""

BATCH = 50
"""Draws that are added up at a time, so that many items fit into memory."""

SEED = 0
"""The seed of the generator of reported intervals."""

Interval = tuple[float, float]
"""The lower and the upper end."""


@dataclass(frozen=True)
class Ratio:
    """A quotient of two sums over items, such as pixels that are hit by pixels that are asked for.

    Attributes
    ----------
    parts, whole
        What each item adds to the two sums, [n].
    """

    parts: Tensor
    whole: Tensor

    @staticmethod
    def mean(values: Tensor, where: Tensor | None = None) -> Ratio:
        """Return the mean of values [n] over the items of `where`, or over all."""
        counted = torch.ones(len(values)) if where is None else where.double()
        # A value that is not counted may be NaN.
        return Ratio(values.double().where(counted > 0, 0.0), counted)

    @property
    def value(self) -> float | None:
        """The quotient; None where no item counts."""
        whole = float(self.whole.double().sum())
        return float(self.parts.double().sum()) / whole if whole else None


@dataclass(frozen=True)
class Estimates:
    """Numbers that were measured on a sample of items, and how sure they are.

    Attributes
    ----------
    numbers
        The values by name.
    intervals
        The interval of each number that is a ratio.
    """

    numbers: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @staticmethod
    def of(ratios: Mapping[str, Ratio], generator: torch.Generator) -> Estimates:
        """Estimate ratios as `find_intervals` does; those in which no item counts are left out."""
        values = {name: ratio.value for name, ratio in ratios.items()}
        numbers = {name: value for name, value in values.items() if value is not None}
        return Estimates(numbers, find_intervals(ratios, generator))


def start_bootstrap() -> torch.Generator:
    """Return the generator by which reported intervals are drawn."""
    return torch.Generator().manual_seed(SEED)


def find_intervals(
    ratios: Mapping[str, Ratio], generator: torch.Generator, draws: int = DRAWS
) -> dict[str, Interval]:
    """Find the interval of each ratio by the percentile bootstrap.

    Items are drawn with replacement, as many as there are, and the same for all ratios. The
    interval holds `CONFIDENCE` of the ratios of the draws. Of a share that no item has or every
    item has, it is the exact binomial interval.

    Parameters
    ----------
    ratios
        By name, all of the same n items. Those in which no item counts are left out, and all where
        there are fewer than two items.
    generator
        Draws the items.
    draws
        How often they are drawn.
    """
    names = [name for name, ratio in ratios.items() if ratio.value is not None]
    if not names or len(ratios[names[0]].parts) < 2:
        # A single item does not tell how much others differ.
        return {}
    sides = [ratios[name].parts for name in names] + [ratios[name].whole for name in names]
    values = torch.stack([side.double().cpu() for side in sides], 1)
    count, drawn = len(values), []
    for start in range(0, draws, BATCH):
        size = min(BATCH, draws - start)
        items = torch.randint(count, (size, count), generator=generator)
        times = torch.zeros(size, count, dtype=torch.float64)
        times.scatter_add_(1, items, torch.ones_like(times))
        drawn.append(times @ values)
    sums = torch.cat(drawn)
    # A draw in which no item counts has no ratio: 0/0, which the quantiles leave out.
    found = sums[:, : len(names)] / sums[:, len(names) :]
    outside = (1 - CONFIDENCE) / 2
    ends = found.nanquantile(torch.tensor([outside, 1 - outside], dtype=torch.float64), 0)
    intervals = {}
    for name, (low, high) in zip(names, ends.T.tolist(), strict=True):
        intervals[name] = _widen_certainty(ratios[name], (low, high))
    return intervals


def _widen_certainty(ratio: Ratio, interval: Interval) -> Interval:
    """Return the exact binomial interval of a share that no item has, or that every item has.

    Draws of such items are all alike, which says nothing of items that were not seen.
    """
    value, count = ratio.value, float(ratio.whole.double().sum())
    are_items = bool(((ratio.whole == 0) | (ratio.whole == 1)).all())
    if not are_items or value not in (0, 1) or bool((ratio.parts.double() % 1 != 0).any()):
        return interval
    unseen = 1 - ((1 - CONFIDENCE) / 2) ** (1 / count)
    return (0.0, unseen) if value == 0 else (1 - unseen, 1.0)
