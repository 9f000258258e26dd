"""Exact numbers of parameters rounded once to the dtype in which they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError


def round_parameter(parameter: str, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round the `exact` float64 numbers of a parameter once to a `dtype`.

    Raises `NumericalError` where numbers are NaN, or lie beyond what `dtype` holds, such as 65504
    in float16.
    """
    if bool(exact.isnan().any()):
        raise NumericalError(
            f"The edit leaves numbers in {parameter} that are not finite.",
            "Check the patches with editspec verify.",
        )
    stored = round_once(exact, dtype)
    if not bool(stored.isfinite().all()):
        kind = str(dtype).removeprefix("torch.")
        raise NumericalError(
            f"The edit takes {parameter} to {float(exact.abs().max()):.6g}, and {kind} ends at "
            f"{torch.finfo(dtype).max:.6g}.",
            "Edit the weights in float32 (or bfloat16), or apply less of the change (--scale).",
        )
    return stored


def round_once(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 numbers once to `dtype`, ties to even."""
    if dtype not in (torch.bfloat16, torch.float16):
        return exact.to(dtype)
    # torch goes from float64 to 16 bits by way of float32, and so rounds twice: a number just above
    # a tie becomes the tie, and then goes the wrong way. Rounding to odd on the way to float32
    # keeps it off the tie, so that the second rounding gives what one alone would have given.
    nearest = exact.float()
    bits = nearest.view(torch.int32)
    inexact = nearest.double() != exact
    beyond = nearest.double().abs() > exact.abs()
    # Toward zero first (one bit pattern less where rounding went beyond), then the last bit is set.
    odd = torch.where(inexact & nearest.isfinite(), (bits - beyond.int()) | 1, bits)
    return odd.view(torch.float32).to(dtype)
