"""Artefacts that people see: connected spots of change where a picture should have none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_PIXELS = 4
"""The least number of connected pixels that an eye takes for a spot."""
THRESHOLDS = (0.06, 0.1, 0.15, 0.2, 0.3)
"""The changes, on the scale of -1..1, for which spots are counted."""
VISIBLE, STRONG = 0.1, 0.2
"""The change from which on a spot is visible, and from which on it is strong."""
EDGE = 0.6
"""The share of the threshold that a pixel itself must reach, besides its neighbourhood's mean."""


def has_artefact(change: Tensor, threshold: float) -> Tensor:
    """Tell which pictures have a visible spot of change.

    A pixel belongs to a spot where the mean change of its 3 x 3 neighbourhood is above the
    threshold, and its own is above `EDGE` of it. Spots of fewer than `LEAST_PIXELS` pixels, which
    touch at sides or corners, are not seen.

    Parameters
    ----------
    change
        Mean absolute change of each pixel over its channels, of pictures in -1..1, [n, h, w]; 0
        where change does not count.
    threshold
        The change that is visible; 0.1 are 13 of 255 gray levels.

    Returns
    -------
    Tensor
        [n] of truth values.
    """
    spots = _label((local_mean(change) > threshold) & (change > EDGE * threshold))
    counts = [torch.bincount(each.flatten())[1:] for each in spots]
    return torch.tensor([bool((count >= LEAST_PIXELS).any()) for count in counts])


def local_mean(change: Tensor) -> Tensor:
    """Average each pixel of [n, h, w] with its neighbours, as far as there are any."""
    return F.avg_pool2d(change[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def _label(hot: Tensor) -> Tensor:
    """Give the pixels of each connected spot the same number, 0 elsewhere: [n, h, w]."""
    count = hot[0].numel()
    numbers = torch.arange(1, count + 1, dtype=torch.float64).view(1, 1, *hot.shape[1:])
    labels = numbers * hot[:, None]
    while True:
        # The largest number of a spot spreads by a pixel in every round.
        spread = F.max_pool2d(labels, 3, 1, 1) * hot[:, None]
        if torch.equal(spread, labels):
            return labels[:, 0].long()
        labels = spread
