"""The directions D in which an edit may change a layer (paper section 3.4 and appendix D)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.ranking import one_hot, quantile_ranking


def inverse_root(second_moment: Tensor) -> Tensor:
    """C^-1/2 of a second moment [n, n] float64, by eigendecomposition.

    Raises `NumericalError` where C is singular (to float64) or not finite.
    """
    if not bool(second_moment.isfinite().all()):
        raise NumericalError(
            "The second moment of the keys is not finite: the generator overflows on its own latents."
        )
    values, vectors = torch.linalg.eigh(second_moment)
    floor = values[-1] * len(values) * torch.finfo(values.dtype).eps
    missing = int((values <= floor).sum())
    if missing:
        raise NumericalError(
            f"The second moment of the keys is singular: {missing} of {len(values)} directions never occur in the "
            "samples, so that C^-1 does not exist.",
            "Raise statistics.samples; if it stays singular, units of the layer are dead or doubled: edit another.",
        )
    root: Tensor = (vectors * values.rsqrt()) @ vectors.T
    return root


def zca_directions(second_moment: Tensor, keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """The `rank` directions in which the context keys stand out most from all keys.

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
        How much each counts, [m], positive.
    rank
        Rows wanted, at most m.

    Returns
    -------
    Tensor
        D, [rank, n] float64, orthonormal rows, each turned towards the mean context key.

    Raises
    ------
    NumericalError
        C is singular, or fewer than `rank` of the keys are linearly independent.
    """
    root = inverse_root(second_moment)
    rows = weights.double()[:, None] * (keys.double() @ root)
    basis, _ = torch.linalg.qr(root @ _top_right(rows, rank).T)
    return _turned(basis, rows)


def svd_directions(second_moment: Tensor, keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """The top right singular vectors of the rows C^-1 k: as `zca_directions`, without whitening
    first.
    """
    root = inverse_root(second_moment)
    rows = weights.double()[:, None] * (keys.double() @ root @ root)
    return _turned(_top_right(rows, rank).T, rows)


def mean_direction(second_moment: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """C^-1 k of the weighted mean key, [1, n] float64: Eqn. 16 for the context as one key."""
    root = inverse_root(second_moment)
    mean = weights.double() @ keys.double() / weights.double().sum()
    direction: Tensor = root @ root @ mean
    return torch.nn.functional.normalize(direction[None])


def directions(
    method: str,
    second_moment: Tensor,
    keys: Tensor,
    weights: Tensor,
    rank: int,
    sample: Callable[[], Tensor],
) -> Tensor:
    """D by a method of the language, ``zca``, ``mean``, ``svd`` or ``units``; the other parameters
    as above.

    `sample` gives the sorted keys of many images, [p, n], by which units are ranked; it is asked
    only for ``units``.
    """
    if method == "units":
        return one_hot(quantile_ranking(sample(), keys, weights)[:rank], keys.shape[1])
    if method == "mean":
        return mean_direction(second_moment, keys, weights)
    return {"zca": zca_directions, "svd": svd_directions}[method](
        second_moment, keys, weights, rank
    )


def _top_right(rows: Tensor, rank: int) -> Tensor:
    """The top right singular vectors of `rows` [m, n], [rank, n]. Raises `NumericalError` where
    there are fewer.
    """
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    independent = int((values > values[0] * max(rows.shape) * torch.finfo(values.dtype).eps).sum())
    if independent < rank:
        raise NumericalError(
            f"The context has only {independent} independent keys, and rank {rank} needs {rank} directions.",
            "Lower the rank, or add context from other places or latents.",
        )
    top: Tensor = right[:rank]
    return top


def _turned(basis: Tensor, rows: Tensor) -> Tensor:
    """The columns of a basis [n, s] as rows, each turned towards the sum of `rows`."""
    signs = torch.where(rows.sum(0) @ basis < 0, -1.0, 1.0).to(basis)
    directions: Tensor = (basis * signs).T.contiguous()
    return directions
