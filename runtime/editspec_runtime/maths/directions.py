"""The directions D of a change (paper section 3.4 and appendix D)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.ranking import one_hot, quantile_ranking

Transform = Callable[[Tensor], Tensor]
"""Takes columns [n, m], and returns as many."""


def inverse_root(second_moment: Tensor) -> Tensor:
    """Compute C^-1/2 of a second moment C [n, n] float64 in the space that occurs.

    Directions that no key has are left out of the inverse, as in that of Moore and Penrose. Raises
    `NumericalError` if C is not finite, or zero.
    """
    inverse, vectors = _inverse_axes(second_moment)
    found: Tensor = (vectors * inverse) @ vectors.T
    return found


def root_and_inverse(second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """Compute C^1/2 and C^-1/2, each [n, n] float64; errors are those of `inverse_root`."""
    inverse, vectors = _inverse_axes(second_moment)
    roots = torch.where(inverse > 0, 1 / inverse, 0)
    root: Tensor = (vectors * roots) @ vectors.T
    inverse_root: Tensor = (vectors * inverse) @ vectors.T
    return root, inverse_root


def _inverse_axes(second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues of C^-1/2 [n], 0 for what does not occur, and the eigenvectors [n, n]."""
    values, vectors = torch.linalg.eigh(_require_finite(second_moment))
    occurs = values > _floor(values[-1], len(values))
    if not bool(occurs.any()):
        raise NumericalError(
            "The second moment of the keys is zero: the layer sees no keys but zero.",
            "Edit an earlier layer.",
        )
    return torch.where(occurs, values, torch.inf).rsqrt(), vectors


def count_missing(second_moment: Tensor) -> int:
    """Count the directions of C [n, n] float64 that no key has."""
    if _occur_all(second_moment):
        return 0
    values = torch.linalg.eigvalsh(second_moment)
    return int((values <= _floor(values[-1], len(values))).sum())


def _occur_all(second_moment: Tensor) -> bool:
    """Whether every direction of C [n, n] float64 occurs in some key."""
    # Cholesky's decomposition is many times cheaper than one into eigenvectors, and fails wherever
    # a direction is missing. The matrix may be large: it is copied once.
    rest = second_moment.clone()
    rest.diagonal().sub_(_floor(second_moment.trace(), len(second_moment)))
    _, failed = torch.linalg.cholesky_ex(rest)
    return not bool(failed)


def _floor(largest: Tensor, count: int) -> Tensor:
    """The usual threshold of numerical rank: an eigenvalue below it is rounding alone."""
    return largest * count * torch.finfo(torch.float64).eps


def _require_finite(second_moment: Tensor) -> Tensor:
    if not bool(second_moment.isfinite().all()):
        raise NumericalError(
            "The second moment of the keys is not finite: the model overflows on its own sample.",
            "Use precision: float64, or edit an earlier layer.",
        )
    return second_moment


def zca_directions(second_moment: Tensor, keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Find the `rank` directions in which the context keys differ most from all keys.

    The keys are whitened by C^-1/2 and weighted, the top right singular vectors are taken, mapped
    back by C^-1/2 and orthonormalised (paper appendix D). At rank 1 with one key this is the
    direction C^-1 k of Eqn. 16.

    Parameters
    ----------
    second_moment
        C, [n, n] float64.
    keys
        The context keys, [m, n].
    weights
        The weight of each key, [m], positive.
    rank
        The number of directions, at most m.

    Returns
    -------
    Tensor
        D, [rank, n] float64, orthonormal rows. Each row has the sign that points towards the mean
        context key.

    Raises
    ------
    NumericalError
        Fewer than `rank` of the keys are linearly independent in the space that occurs, or C has
        no inverse square root.
    """
    # In the axes of C, where C^-1/2 itself, the product of three matrices, is not needed.
    inverse, vectors = _inverse_axes(second_moment)
    rows = weights.double()[:, None] * (keys.double() @ vectors) * inverse
    top = _require(_independent(rows)[:rank], rank)
    basis, _ = torch.linalg.qr(vectors @ (inverse[:, None] * top.T))
    # The authors' signs: those of the keys that C^-1/2 has whitened.
    return orient(basis, rows.sum(0, keepdim=True) @ vectors.T)


def svd_directions(second_moment: Tensor, keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Find the top right singular vectors of the rows C^-1 k.

    Parameters, result and errors are those of `zca_directions`. The singular vectors are taken
    after the whole of C^-1 here, and between its two halves there.
    """
    whiten, unwhiten = _whiteners(second_moment)
    weighted = weights.double()[:, None] * keys.double()
    rows = unwhiten(whiten(weighted.T)).T
    return orient(_require(_independent(rows)[:rank], rank).T, rows)


def mean_direction(second_moment: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """Compute C^-1 k of the weighted mean key (Eqn. 16), [1, n] float64, of norm 1."""
    whiten, unwhiten = _whiteners(second_moment)
    mean = weights.double() @ keys.double() / weights.double().sum()
    direction = unwhiten(whiten(mean[:, None]))[:, 0]
    return torch.nn.functional.normalize(direction[None])


def span_directions(second_moment: Tensor, keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Find the directions C^-1 k of all keys that are independent, at most `rank`.

    Parameters, result and errors are those of `zca_directions`, but for keys that depend on others:
    they add no direction, and are no error.
    """
    whiten, unwhiten = _whiteners(second_moment)
    weighted = weights.double()[:, None] * keys.double()
    whitened = whiten(weighted.T).T
    basis, _ = torch.linalg.qr(unwhiten(_independent(whitened)[:rank].T))
    return orient(basis, weighted)


def _whiteners(second_moment: Tensor) -> tuple[Transform, Transform]:
    """The functions that multiply columns [n, m] by R^-1 and by its transpose, where C = R R^T.

    R is the factor of Cholesky, which is found many times faster than C^1/2 and whitens as well:
    whitened keys are only turned. Where directions are missing in C, R is C^1/2.
    """
    if not _occur_all(_require_finite(second_moment)):
        root = inverse_root(second_moment)
        return root.matmul, root.matmul
    factor = torch.linalg.cholesky(second_moment)
    first = partial(torch.linalg.solve_triangular, factor, upper=False)
    return first, partial(torch.linalg.solve_triangular, factor.T, upper=True)


def directions(
    method: str,
    second_moment: Tensor,
    keys: Tensor,
    weights: Tensor,
    rank: int,
    sample: Callable[[], Tensor],
) -> Tensor:
    """Find D by a method of the language: ``zca``, ``mean``, ``svd`` or ``units``; or ``span``.

    `sample` returns many keys, [p, n], each column sorted. It is called only for ``units``, which
    ranks units by it. The other parameters, result and errors are those of `zca_directions`.
    """
    if method == "units":
        return one_hot(quantile_ranking(sample(), keys, weights)[:rank], keys.shape[1])
    if method == "mean":
        return mean_direction(second_moment, keys, weights)
    find = {"zca": zca_directions, "svd": svd_directions, "span": span_directions}[method]
    return find(second_moment, keys, weights, rank)


def _independent(rows: Tensor) -> Tensor:
    """The right singular vectors [k, n] of `rows` [m, n], k of which are linearly independent."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    threshold = values[0] * max(rows.shape) * torch.finfo(values.dtype).eps
    independent: Tensor = right[values > threshold]
    return independent


def _require(found: Tensor, rank: int) -> Tensor:
    """The directions that were found, [rank, n]; raises `NumericalError` if there are fewer."""
    if len(found) < rank:
        raise NumericalError(
            f"The context has only {len(found)} independent keys, and rank {rank} needs {rank} "
            "directions.",
            "Lower the rank, or add context from other places or latents.",
        )
    return found


def orient(basis: Tensor, rows: Tensor) -> Tensor:
    """Make rows of the columns of a basis [n, s], and fix the sign of each.

    Each row points towards the sum of `rows`. A singular vector has no sign of its own: libraries
    differ, and the bits must not.
    """
    signs = torch.where(rows.sum(0) @ basis < 0, -1.0, 1.0).to(basis)
    directions: Tensor = (basis * signs).T.contiguous()
    return directions
