"""Rankings of units (channels of a key) by their response to a context."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_ranking(second_moment: Tensor, keys: Tensor, weights: Tensor) -> list[int]:
    """Rank the units by their mean square in the context, relative to that everywhere.

    The largest ratio comes first. This is the order in which the paper's experiments erase units
    (section 5.2). A unit that is always 0 comes last.

    Parameters
    ----------
    second_moment
        C, [n, n] float64; its diagonal holds the mean squares.
    keys, weights
        The context keys, [m, n], and the weight of each, [m].

    Returns
    -------
    list of int
        The numbers of all units.
    """
    everywhere = second_moment.diagonal()
    squares = _weighted_mean(keys.double().square(), weights)
    # Zeros are raised before the division, because 0 / 0 is not a number.
    divisor = everywhere.clamp_min(torch.finfo(everywhere.dtype).tiny)
    return _order(torch.where(everywhere > 0, squares / divisor, 0))


def quantile_ranking(sample: Tensor, keys: Tensor, weights: Tensor) -> list[int]:
    """Rank the units by how rare their responses in the context are.

    The largest mean of -log(1 - quantile) comes first, as in GAN Dissection.

    Parameters
    ----------
    sample
        Keys of many items, [p, n], each column sorted.
    keys, weights
        The context keys, [m, n], and the weight of each, [m].

    Returns
    -------
    list of int
        The numbers of all units.
    """
    below = torch.searchsorted(sample.T.contiguous(), keys.T.to(sample).contiguous(), right=True).T
    # One more than the sample has, so that no quantile is 1, whose logarithm is infinite.
    rarity = -torch.log1p(-below.double() / (len(sample) + 1))
    return _order(_weighted_mean(rarity, weights))


def one_hot(units: list[int] | tuple[int, ...], channels: int) -> Tensor:
    """Make the directions of `units`, [len(units), channels] float64, one-hot rows."""
    rows = torch.zeros(len(units), channels, dtype=torch.float64)
    rows[torch.arange(len(units)), torch.tensor(units, dtype=torch.long)] = 1
    return rows


def _weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    return weights.double() @ rows / weights.double().sum()


def _order(scores: Tensor) -> list[int]:
    # Stable, so that equal scores keep their order on every device.
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    return order
