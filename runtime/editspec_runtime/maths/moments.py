"""The second moment C = E[k k^T]: estimator and estimate (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError

SLICE, SLICE_OF_A_GPU, TILE = 2**17, 2**25, 128
"""The amount of numbers multiplied at a time on a CPU and on a GPU, and the number of columns.

The first one stays in the caches of a CPU, the second one fills a GPU.
"""

ROWS = 256
"""The least number of keys multiplied at a time: each time, all sums are read and written."""


@dataclass(frozen=True)
class SecondMoment:
    """The estimate C = sum_j w_j k_j k_j^T / sum_j w_j over keys k_j of weights w_j.

    It is not centred.

    Attributes
    ----------
    matrix
        C, [in_features, in_features] float64, symmetric.
    weight
        The sum of the weights. If each key counts once, this is the number of keys.
    """

    matrix: Tensor
    weight: float


class SecondMomentEstimator:
    """A sum of outer products of keys, in float64.

    Equal updates in equal order give equal bits.

    Parameters
    ----------
    features
        The length of a key.
    device
        The device of the sums and of the keys.

    Attributes
    ----------
    sums
        [features + 1, features] float64. The first rows hold the sum of w k k^T on and above their
        diagonal; the numbers below it have no meaning. The first number of the last row is the sum
        of the weights. All are one tensor, which processes can exchange without pickling.
    """

    def __init__(self, features: int, device: torch.device | None = None) -> None:
        self.sums = torch.zeros(features + 1, features, dtype=torch.float64, device=device)

    @classmethod
    def from_sums(cls, sums: Tensor) -> SecondMomentEstimator:
        """Go on with the `sums` of an estimator, which are then this one's."""
        estimator = cls.__new__(cls)
        estimator.sums = sums
        return estimator

    @torch.no_grad()
    def update(self, keys: Tensor, weight: Tensor | None = None) -> None:
        """Add keys.

        Parameters
        ----------
        keys
            [..., features], in any precision.
        weight
            The weight of each key, [...], not negative. A key of weight 0 (padding) does not count,
            whatever numbers it holds. Default: each key counts once.
        """
        rows = keys.reshape(-1, keys.shape[-1])
        weights = None if weight is None else weight.reshape(-1).to(self.sums)
        if weights is not None:
            counting = weights > 0
            rows, weights = rows[counting], weights[counting]
            if bool((weights == 1).all()):
                weights = None
        add_outer_products(self.sums[:-1], rows, weights)
        self.sums[-1, 0] += len(rows) if weights is None else weights.sum()

    @torch.no_grad()
    def add(self, sums: Tensor) -> None:
        """Add the `sums` of another estimator."""
        self.sums += sums.to(self.sums)

    def estimate(self) -> SecondMoment:
        """Compute the second moment of all keys.

        It takes the place of the sums, so that nothing can be added afterwards. Raises
        `NumericalError` if no key counts.
        """
        weight = float(self.sums[-1, 0])
        if not weight:
            raise NumericalError(
                "No position of the sample counts, so that there is no second moment of the keys.",
                "Give a sample with items that have positions.",
            )
        # In place, tile by tile: the matrix of a large layer takes gigabytes.
        mean = self.sums[:-1].div_(weight)
        for begin in range(0, len(mean), TILE):
            rows = slice(begin, begin + TILE)
            own = mean[rows, rows]
            own.copy_(own.triu() + own.triu(1).T)
            mean[begin + TILE :, rows] = mean[rows, begin + TILE :].T
        return SecondMoment(mean, weight)


def add_outer_products(total: Tensor, rows: Tensor, weights: Tensor | None = None) -> None:
    """Add the sum of w k k^T over rows to the upper triangle of `total`.

    `rows` are [p, n], `total` is [n, n]. The sum is in float64. Some rows are added at a time, so
    that memory does not grow with the number of keys, and some columns at a time, so that the lower
    triangle is not computed. `weights` is [p]; without weights each row counts once.
    """
    numbers = SLICE_OF_A_GPU if rows.is_cuda else SLICE
    count = max(ROWS, numbers // rows.shape[1])
    room = rows.new_empty(min(count, len(rows)), rows.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), count):
        some = rows[start : start + count]
        exact = room[: len(some)].copy_(some)
        left = exact if weights is None else exact * weights[start : start + count, None]
        for begin in range(0, rows.shape[1], TILE):
            columns = slice(begin, begin + TILE)
            total[columns, begin:].addmm_(left[:, columns].T, exact[:, begin:])
