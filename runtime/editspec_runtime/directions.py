"""The directions D in which an edit may change a layer (paper section 3.4 and appendix D)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError


def inverse_root(second_moment: Tensor) -> Tensor:
    """C^-1/2 of a second moment [n, n] float64, by eigendecomposition.

    Raises `NumericalError` where C is singular (to float64) or not finite.
    """
    if not bool(second_moment.isfinite().all()):
        raise NumericalError("The second moment of the keys is not finite: the generator overflows on its own latents.")
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

    The keys are whitened by C^-1/2 and weighted, the top right singular vectors are taken, mapped back by C^-1/2
    and orthonormalised (paper appendix D). At rank 1 with one key this is the direction C^-1 k of Eqn. 16.

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
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    independent = int((values > values[0] * max(rows.shape) * torch.finfo(values.dtype).eps).sum())
    if independent < rank:
        raise NumericalError(
            f"The context has only {independent} independent keys, and rank {rank} needs {rank} directions.",
            "Lower the rank, or add context from other places or latents.",
        )
    basis, _ = torch.linalg.qr(root @ right[:rank].T)
    signs = torch.where(rows.sum(0) @ basis < 0, -1.0, 1.0).to(basis)
    directions: Tensor = (basis * signs).T.contiguous()
    return directions
