"""Tolerances between two right builds of one edit in different environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editspec_runtime.patches.patch import Patch

TOLERANCES = {"float32": (5e-2, 1e-2), "float64": (1e-6, 1e-6)}
"""The largest difference of a patch that is solved again elsewhere, by the spec's precision.

The first number is the relative norm of the difference in the metric of C, and the second is the
largest principal angle of D in radians. A solve in float32 amplifies rounding: its L1 loss and
Adam's division make two right solutions differ by percents.
"""


def is_rounding(
    base: Mapping[str, Tensor],
    explained: Mapping[str, Tensor],
    edited: Mapping[str, Tensor],
    stack: Sequence[Patch],
    parameter: str,
) -> bool:
    """Whether a parameter differs from a stack's result only as another build may.

    The difference may have a share of the norm of the stack's change, as `TOLERANCES` say of the
    patches' precision. Outside of the directions D of the patches it may have only as much as
    directions at the largest angle give, and the rounding of the weights themselves.
    """
    changing = [patch for patch in stack if parameter in patch.parameters]
    if not changing:
        return False
    before, wanted, found = (each[parameter] for each in (base, explained, edited))
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    shape = changing[0].stored_change(parameter).shape
    left = (found.double() - wanted.double()).reshape(shape)
    size = float((wanted.double() - before.double()).norm())
    most, angle = min(TOLERANCES[_precision(patch, parameter)] for patch in changing)
    if not float(left.norm()) <= most * size:
        return False
    if any(parameter in patch.deltas for patch in changing):
        return True
    # Each weight may have been rounded the other way.
    rounding = torch.finfo(wanted.dtype).eps * float(wanted.double().norm())
    return float(_outside(left, changing, parameter).norm()) <= angle * size + rounding


def _precision(patch: Patch, parameter: str) -> str:
    """The precision that a patch was solved in, by its numbers."""
    numbers = patch.deltas.get(parameter, patch.coefficients.get(parameter))
    double = numbers is not None and numbers.dtype == torch.float64
    return "float64" if double else "float32"


def _outside(left: Tensor, changing: Sequence[Patch], parameter: str) -> Tensor:
    """The part of a difference that no direction of the patches gives."""
    layout = str(changing[0].metadata["layouts"][parameter]).split()
    axes = [axis for axis in layout if axis != "1"]
    rows = left.movedim(axes.index("i"), -1).flatten(end_dim=-2)
    directions = [patch.directions[parameter].double() for patch in changing]
    basis = torch.linalg.qr(torch.cat(directions).T)[0]
    outside: Tensor = rows - rows @ basis @ basis.T
    return outside
