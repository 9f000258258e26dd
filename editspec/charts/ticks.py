"""Round numbers on an axis."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10


@dataclass(frozen=True)
class Frame:
    """The size of a drawing, and the edges of the plot in it."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Tick:
    """A number on an axis, and its place in the units of the drawing."""

    at: float
    text: str


def pick_ticks(largest: float, smallest: float = 0.0) -> list[str]:
    """Pick up to ten round numbers from `smallest` or below it to `largest` or above it.

    The numbers have as many decimals as they need. Where the two are the same, the first number is
    0 or the last.
    """
    extent = largest - smallest
    if extent <= 0:
        return pick_ticks(max(1.0, largest), 0.0) if largest else ["0", "1"]
    power = 10.0 ** floor(log10(extent / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if extent <= 8 * power * factor)
    decimals = max(0, -floor(log10(step)))
    # The tiny number keeps a quotient like 3.0000000000000004 from counting as four steps.
    first, last = floor(smallest / step + 1e-9), ceil(largest / step - 1e-9)
    return [f"{step * number:.{decimals}f}" for number in range(first, last + 1)]
