"""The metric of the second moment: |M|^2 = tr(M C M^T) = E |M k|^2.

M is a change of a weight, and the mean is over the keys k. A change is unfolded into a matrix
[out * kh * kw, in], each row of which is multiplied by one key: the taps of a kernel count as
independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.maths.directions import root_and_inverse


def unfold(weight: Tensor) -> Tensor:
    """Unfold a weight into a matrix, float64 on the CPU.

    [..., out, in, kh, kw] or [out, in] -> [out * kh * kw, in]; one number -> [1, 1].
    """
    return _unfold(weight.detach().cpu())


def _unfold(weight: Tensor) -> Tensor:
    weight = weight.double()
    if weight.ndim > 2:
        weight = weight.reshape(-1, *weight.shape[-3:]).movedim(1, -1)
    if weight.ndim == 0:
        weight = weight.reshape(1)
    return weight.reshape(-1, weight.shape[-1])


def energy(weight: Tensor, moment: Tensor) -> float:
    """Compute tr(W C W^T) of a weight [..., out, in, kh, kw] or [out, in].

    `moment` is C, [in, in] float64, on the device that computes. The result is the mean square of
    W k over the keys k, summed over outputs and taps.
    """
    rows = _unfold(weight.detach().to(moment.device))
    return inner(rows, rows, moment)


def fold(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Undo `unfold` for a weight of this shape, with a last axis of any length s.

    [out * kh * kw, s] -> [out, s, kh, kw] or [out, s].
    """
    if len(shape) <= 2:
        return matrix
    return matrix.reshape(-1, shape[-2], shape[-1], matrix.shape[-1]).movedim(-1, 1).contiguous()


def inner(first: Tensor, second: Tensor, moment: Tensor) -> float:
    """Compute tr(M C N^T) of two matrices [m, n] and C [n, n]."""
    return float(((first @ moment) * second).sum())


def norm(matrix: Tensor, moment: Tensor) -> float:
    """The norm of a matrix [m, n] in the metric of C [n, n]."""
    # Not negative, but rounding may make it negative.
    return math.sqrt(max(inner(matrix, matrix, moment), 0.0))


def cosine(first: Tensor, second: Tensor, moment: Tensor) -> float:
    """The cosine between two changes [m, n] in the metric of C.

    It is 0 if a change is zero, 1 if the changes act equally on the keys, -1 if they act
    oppositely.
    """
    sizes = norm(first, moment) * norm(second, moment)
    return inner(first, second, moment) / sizes if sizes > 0 else 0.0


def principal_cosines(first: Tensor, second: Tensor, moment: Tensor | None = None) -> Tensor:
    """The cosines of the principal angles between two row spaces, descending.

    The rows are [s, n] and [t, n], the cosines [min(s, t)]. If C is given, the angles are those in
    its metric: a cosine is 1 if a direction of one space responds to the keys exactly as one of the
    other does.
    """
    bases = [_orthonormal(rows.double(), moment) for rows in (first, second)]
    left = bases[0] if moment is None else bases[0] @ moment
    cosines: Tensor = torch.linalg.svdvals(left @ bases[1].T).clamp(0, 1)
    return cosines


def row_space(change: Tensor) -> Tensor:
    """The directions [s, in] that span the rows of a change.

    The change is [..., out, in, kh, kw] or [out, in]. The directions are orthonormal.
    """
    _, values, right = torch.linalg.svd(unfold(change), full_matrices=False)
    # Below this threshold a singular value is rounding alone.
    threshold = values[0] * max(right.shape) * torch.finfo(values.dtype).eps
    space: Tensor = right[values > threshold]
    return space


@dataclass(frozen=True)
class Recompressed:
    """The best approximation of a change at a lower rank.

    Attributes
    ----------
    directions, coefficients
        D [r, n] orthonormal rows, and the rows of A, [m, r].
    lost
        The norm of the error in the metric of C, relative to the norm of the change.
    spectrum
        The singular values of the change in the metric of C, descending.
    """

    directions: Tensor
    coefficients: Tensor
    lost: float
    spectrum: Tensor


def recompress(matrix: Tensor, moment: Tensor, rank: int) -> Recompressed:
    """Approximate `matrix` [m, n] at a lower rank in the metric of C.

    No other change of at most `rank` is nearer (Eckart and Young). Where C is singular, only its
    own space counts. Raises `NumericalError` as `root_and_inverse` does.
    """
    root, inverse = root_and_inverse(moment)
    _, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
    kept = right[: min(rank, len(values))]
    directions = torch.linalg.qr((kept @ inverse).T)[0].T.contiguous()
    # In the metric of C the projection onto the kept directions is oblique: M C^1/2 V V^T C^-1/2.
    nearest = matrix @ root @ kept.T @ kept @ inverse
    total = float(values.square().sum()) ** 0.5
    lost = float(values[len(kept) :].square().sum()) ** 0.5
    relative = lost / total if total > 0 else 0.0
    return Recompressed(directions, nearest @ directions.T, relative, values)


def _orthonormal(rows: Tensor, moment: Tensor | None) -> Tensor:
    """Find an orthonormal basis of the span of rows [s, n].

    It is orthonormal in the metric of C if C is given.
    """
    if moment is None:
        transposed: Tensor = torch.linalg.qr(rows.T)[0]
        return transposed.T
    values, vectors = torch.linalg.eigh(rows @ moment @ rows.T)
    # Directions that no key has are left out: in the metric of C their length is 0.
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    basis: Tensor = (vectors[:, kept] * values[kept].rsqrt()).T @ rows
    return basis
