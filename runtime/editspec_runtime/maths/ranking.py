"""Which units (channels of a key) respond most to a context."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_ranking(second_moment: Tensor, keys: Tensor, weights: Tensor) -> list[int]:
    """All units, first those whose square in the context is largest beside their mean square
    everywhere.

    This is the order in which the paper's experiments erase units (section 5.2). A unit that never
    fires comes last.

    Parameters
    ----------
    second_moment
        C, [n, n] float64; its diagonal holds the mean squares.
    keys, weights
        The context keys, [m, n], and how much each counts, [m].
    """
    usual = second_moment.diagonal()
    squares = _weighted_mean(keys.double().square(), weights)
    return _order(
        torch.where(usual > 0, squares / usual.clamp_min(torch.finfo(usual.dtype).tiny), 0)
    )


def quantile_ranking(sample: Tensor, keys: Tensor, weights: Tensor) -> list[int]:
    """All units, first those whose responses in the context are rarest: mean -log(1 - quantile), as
    in GAN Dissection.

    Parameters
    ----------
    sample
        Keys of many images, [p, n], each column sorted.
    keys, weights
        The context keys, [m, n], and how much each counts, [m].
    """
    below = torch.searchsorted(sample.T.contiguous(), keys.T.to(sample).contiguous(), right=True).T
    rarity = -torch.log1p(-below.double() / (len(sample) + 1))
    return _order(_weighted_mean(rarity, weights))


def one_hot(units: list[int] | tuple[int, ...], channels: int) -> Tensor:
    """The directions of `units`, [len(units), channels] float64: orthonormal rows."""
    rows = torch.zeros(len(units), channels, dtype=torch.float64)
    rows[torch.arange(len(units)), torch.tensor(units, dtype=torch.long)] = 1
    return rows


def _weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    return weights.double() @ rows / weights.double().sum()


def _order(scores: Tensor) -> list[int]:
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    return order
