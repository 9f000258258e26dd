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
        [n] of truth values, on the device of `change`.
    """
    labels = _label((local_mean(change) > threshold) & (change > EDGE * threshold)).flatten(1)
    pixels = torch.zeros(len(labels), labels.shape[1] + 1, device=change.device)
    pixels.scatter_add_(1, labels, torch.ones_like(labels, dtype=pixels.dtype))
    # Label 0 is what belongs to no spot.
    return (pixels[:, 1:] >= LEAST_PIXELS).any(1)


def local_mean(change: Tensor) -> Tensor:
    """Average each pixel of [n, h, w] with its neighbours, as far as there are any."""
    return F.avg_pool2d(change[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def _label(hot: Tensor) -> Tensor:
    """Give pixels of the same spot the same number, 0 elsewhere: [n, h, w].

    Of a large spot only those few that tell that it is large: at least `LEAST_PIXELS`.
    """
    count = hot[0].numel()
    numbers = torch.arange(1, count + 1, dtype=torch.float64, device=hot.device)
    labels = numbers.view(1, 1, *hot.shape[1:]) * hot[:, None]
    for _ in range(LEAST_PIXELS - 1):
        # The largest number of a spot spreads by a pixel in every round, to one pixel at least.
        labels = F.max_pool2d(labels, 3, 1, 1) * hot[:, None]
    return labels[:, 0].long()
