"""Changes A D of a weight [out, in, *taps], and their parts."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**15
"""Numbers of a change that are added up at a time: they stay in the caches of a CPU."""

_FORMS = {2: ("o", ""), 3: ("o", "x"), 4: ("o", "yx"), 5: ("lo", "yx")}
"""The axes before and after the inputs, by the number of axes.

StyleGAN2 has an axis of length 1 before the outputs.
"""


def delta(coefficients: Tensor, directions: Tensor) -> Tensor:
    """Compute the change A D of a weight.

    [..., out, s, *taps] and [s, in] -> [..., out, in, *taps].
    """
    before, after = _FORMS[coefficients.ndim]
    return torch.einsum(f"{before}s{after},si->{before}i{after}", coefficients, directions)


def coefficients_of(change: Tensor, directions: Tensor) -> Tensor:
    """Compute A of the projection of a change into the span of orthonormal rows D.

    [..., out, in, *taps] and [s, in] -> [..., out, s, *taps].
    """
    before, after = _FORMS[change.ndim]
    return torch.einsum(f"{before}i{after},si->{before}s{after}", change, directions)


def kernel_of(weight: Tensor) -> Tensor:
    """Return a weight as [out, in, *taps], without an axis before the outputs."""
    return weight[0] if weight.ndim == 5 else weight


def exact_delta(coefficients: Tensor, directions: Tensor) -> Tensor:
    """Compute the change A D in float64 on the CPU, with the same bits everywhere.

    [out, s, *taps] and [s, in] -> [out, in, *taps]. delta[o, i, y, x] is the sum over s of
    A[o, s, y, x] D[s, i], by separate multiplications and additions in ascending s. A matrix
    product would give other bits on other devices.
    """
    directions = directions.detach().cpu().double()
    coefficients = coefficients.detach().cpu().double()
    taps = (1,) * (coefficients.ndim - 2)
    shape = (coefficients.shape[0], directions.shape[1], *coefficients.shape[2:])
    total = torch.zeros(shape, dtype=torch.float64)
    rows = max(1, BLOCK * shape[0] // max(1, total.numel()))
    product = torch.empty((min(rows, shape[0]), *shape[1:]), dtype=torch.float64)
    for start in range(0, shape[0], rows):
        part = total[start : start + rows]
        factors = coefficients[start : start + rows]
        own = product[: len(part)]
        for index, direction in enumerate(directions):
            torch.mul(factors[:, index, None], direction.reshape(1, -1, *taps), out=own)
            part += own
    return total
