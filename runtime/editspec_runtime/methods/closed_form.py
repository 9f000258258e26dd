"""The closed form of an edit, for layers that are linear from key to value (paper Eqn. 14 and 15,
appendix B).
"""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.rule import Rule
from editspec_runtime.modalities.image.generator import LayerFunction


def closed_form(
    function: LayerFunction, weight: Tensor, rule: Rule, directions: Tensor, second_moment: Tensor
) -> Tensor:
    """The change A D that brings f(K*; W0 + A D) closest to V*, and of all that come as close the
    smoothest one.

    Closest is least squares, smoothest the smallest E_k |dW k|^2 with the taps of a kernel taken as
    independent. Where D holds C^-1 K* and a value depends on one key alone (matrices, 1x1 kernels),
    V* is met exactly and the change is that of Eqn. 15. Computed in float64.

    Parameters
    ----------
    function
        The layer's f(k; W), linear in W.
    weight
        W0, [1, out, in, kh, kw].
    rule
        K* and V*.
    directions
        D, [s, in], orthonormal rows.
    second_moment
        C, [in, in] float64.

    Returns
    -------
    Tensor
        A, [1, out, s, kh, kw], in the precision of the weight.
    """
    taps = weight.shape[-2:]
    arguments = {name: tensor.double() for name, tensor in rule.arguments.items()}
    wide = directions.double()
    key = rule.key.double()
    missing = rule.value.double() - function(key, weight.double(), arguments, haloed=True)
    # What each coefficient alone adds to the value: one output channel per coefficient, with a one
    # at its own tap.
    count = len(wide) * taps.numel()
    unit = torch.eye(count).to(key).view(1, count, len(wide), *taps)
    design = function(torch.einsum("nihw,si->nshw", key, wide), unit, arguments, haloed=True)
    # In coordinates in which |dW k|^2 is a plain square, the least-squares solution of least norm
    # is the smoothest.
    moment = wide @ second_moment.to(wide) @ wide.T
    root = torch.kron(torch.linalg.cholesky(moment).contiguous(), torch.eye(taps.numel()).to(wide))
    rows = torch.linalg.solve_triangular(root, design.movedim(1, 0).flatten(1), upper=False).T
    solution = torch.linalg.pinv(rows) @ missing.movedim(1, 0).flatten(1).T
    coefficients: Tensor = torch.linalg.solve_triangular(root.T, solution, upper=True).T
    return coefficients.reshape(1, weight.shape[1], len(wide), *taps).to(weight)
