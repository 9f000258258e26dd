"""Changes of a weight in the metric of the second moment C: |M|^2 = tr(M C M^T) = E |M k|^2.

The mean is over the keys k. A change is unfolded into a matrix [out * kh * kw, in], whose rows
answer one key each; the taps of a kernel are taken as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.maths.directions import inverse_root


def unfolded(weight: Tensor) -> Tensor:
    """[..., out, in, kh, kw] or [out, in] -> [out * kh * kw, in], float64 on the CPU."""
    return _unfold(weight.detach().cpu())


def _unfold(weight: Tensor) -> Tensor:
    weight = weight.double()
    if weight.ndim > 2:
        weight = weight.reshape(-1, *weight.shape[-3:]).movedim(1, -1)
    return weight.reshape(-1, weight.shape[-1])


def energy(weight: Tensor, moment: Tensor) -> float:
    """tr(W C W^T) of a weight [..., out, in, kh, kw] or [out, in], C [in, in] float64.

    The mean square of what the weight answers to a key, added up over outputs and taps. Computed
    where C is.
    """
    rows = _unfold(weight.detach().to(moment.device))
    return inner(rows, rows, moment)


def folded(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `unfolded` for a last axis of any length s: [out * kh * kw, s] -> [out, s, kh,
    kw] or [out, s].
    """
    if len(shape) <= 2:
        return matrix
    return matrix.reshape(-1, shape[-2], shape[-1], matrix.shape[-1]).movedim(-1, 1).contiguous()


def inner(first: Tensor, second: Tensor, moment: Tensor) -> float:
    """tr(M C N^T) of two matrices [m, n] and C [n, n]."""
    return float(((first @ moment) * second).sum())


def norm(matrix: Tensor, moment: Tensor) -> float:
    """The norm of a matrix [m, n] in the metric of C [n, n]."""
    return math.sqrt(max(inner(matrix, matrix, moment), 0.0))


def cosine(first: Tensor, second: Tensor, moment: Tensor) -> float:
    """The cosine between two changes [m, n]: 1 where they do the same, -1 where one undoes the
    other.
    """
    sizes = norm(first, moment) * norm(second, moment)
    return inner(first, second, moment) / sizes if sizes > 0 else 0.0


def principal_cosines(first: Tensor, second: Tensor, moment: Tensor | None = None) -> Tensor:
    """The cosines of the principal angles between the row spans of [s, n] and [t, n], descending,
    [min(s, t)].

    In the metric of C where it is given: 1 where a direction of one answers the keys just as one of
    the other does.
    """
    bases = [_orthonormal(rows.double(), moment) for rows in (first, second)]
    left = bases[0] if moment is None else bases[0] @ moment
    cosines: Tensor = torch.linalg.svdvals(left @ bases[1].T).clamp(0, 1)
    return cosines


def row_space(change: Tensor) -> Tensor:
    """The directions [s, in] that span the rows of a change [..., out, in, kh, kw] or [out, in]."""
    _, values, right = torch.linalg.svd(unfolded(change), full_matrices=False)
    space: Tensor = right[values > values[0] * max(right.shape) * torch.finfo(values.dtype).eps]
    return space


@dataclass(frozen=True)
class Recompressed:
    """The best approximation of a change at a lower rank.

    Attributes
    ----------
    directions, coefficients
        D [r, n] orthonormal rows, and the rows of A, [m, r].
    lost
        The norm of what is missing, in the metric of C, relative to that of the change.
    spectrum
        The singular values of the change in the metric of C, descending.
    """

    directions: Tensor
    coefficients: Tensor
    lost: float
    spectrum: Tensor


def recompress(matrix: Tensor, moment: Tensor, rank: int) -> Recompressed:
    """The change of at most `rank` that is nearest to `matrix` [m, n] in the metric of C (Eckart
    and Young).

    Raises `NumericalError` where C is singular.
    """
    inverse = inverse_root(moment)
    root = torch.linalg.inv(inverse)
    _, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
    kept = right[: min(rank, len(values))]
    directions = torch.linalg.qr((kept @ inverse).T)[0].T.contiguous()
    # In the metric of C the projection onto the kept directions is oblique: M C^1/2 V V^T C^-1/2.
    nearest = matrix @ root @ kept.T @ kept @ inverse
    total = float(values.square().sum()) ** 0.5
    lost = float(values[len(kept) :].square().sum()) ** 0.5
    return Recompressed(
        directions, nearest @ directions.T, lost / total if total > 0 else 0.0, values
    )


def _orthonormal(rows: Tensor, moment: Tensor | None) -> Tensor:
    """A basis of the span of rows [s, n] that is orthonormal, in the metric of C where it is
    given.
    """
    if moment is None:
        transposed: Tensor = torch.linalg.qr(rows.T)[0]
        return transposed.T
    values, vectors = torch.linalg.eigh(rows @ moment @ rows.T)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    basis: Tensor = (vectors[:, kept] * values[kept].rsqrt()).T @ rows
    return basis
