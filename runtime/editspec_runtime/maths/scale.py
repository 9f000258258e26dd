"""The scale of a weight, to which the rate of Adam is relative."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from torch import Tensor


def scale_of(weight: Tensor) -> float:
    """Compute the root mean square of a weight, rounded to a power of two.

    Equalised weights have a scale of exactly 1, although training moves them a little: rates, and
    with them the bits of a result, are then those that are written. Rounding in the sum does not
    reach the result either. The scale of a weight of zeros is 1.
    """
    mean_square = float(weight.detach().double().square().mean())
    if not math.isfinite(mean_square) or mean_square == 0:
        return 1.0
    return float(2.0 ** round(math.log2(mean_square) / 2))


def typical_scale(weights: Iterable[Tensor]) -> float:
    """Compute the median of the scales of some weights, the lower one of two."""
    return statistics.median_low([scale_of(weight) for weight in weights])
