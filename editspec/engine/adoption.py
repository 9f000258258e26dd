"""The change that another tool made to a parameter, as the tensors of a patch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.patches.patch import Patch, apply_stack


@dataclass(frozen=True)
class Adopted:
    """The change of a parameter.

    Attributes
    ----------
    tensors
        Its tensors in a patch: ``P.D`` and ``P.A``, or ``P.delta``.
    after
        The parameter after the patch; None where it is no longer needed.
    left, total
        The squared norms of the change that is not in the patch, and of the whole change.
    inexact
        The count of numbers that the patch gives in other bits than the other tool did.
    """

    tensors: dict[str, Tensor]
    after: Tensor | None
    left: float
    total: float
    inexact: int

    @property
    def rank(self) -> int | None:
        """The number of directions; None where the change is whole."""
        return next((len(part) for name, part in self.tensors.items() if name.endswith(".D")), None)


def share_of(left: float, total: float) -> float:
    """The share of a change that a patch gives, of what is `left` of the `total`."""
    return 1 - left / total if total else 1.0


def adopt_parameter(
    name: str, before: Tensor, edited: Tensor, axes: str, rank: int | None
) -> Adopted:
    """Take over the change of a parameter.

    Parameters
    ----------
    name
        The name of the parameter.
    before, edited
        The parameter before and after, of one shape and of one type of floating point numbers.
    axes
        Its layout in the checkpoint, such as ``o i y x``.
    rank
        The most directions that the change may have; None for the whole change. A vector is always
        taken as a whole.
    """
    change = edited.double() - before.double()
    lengths = [length for length in change.shape if length != 1]
    if rank is not None and len(lengths) > 1 and {"o", "i"} <= set(axes.split()):
        tensors = _factorise(name, change, axes.split(), rank, _rounding_of(edited))
        after = _apply(name, before, tensors, axes)
    else:
        # Half the bytes, where they hold all of the change.
        tensors = {f"{name}.delta": change.float()}
        after = _apply(name, before, tensors, axes)
        if tensor_digest(after) != tensor_digest(edited):
            tensors = {f"{name}.delta": change}
            after = _apply(name, before, tensors, axes)
    left = edited.double() - after.double()
    return Adopted(
        tensors,
        after,
        float(left.square().sum()),
        float(change.square().sum()),
        _count_differing(after, edited),
    )


def _rounding_of(weight: Tensor) -> float:
    """How far rounding moves a number of a weight, in the mean."""
    rms = float(weight.double().norm()) / math.sqrt(weight.numel())
    return rms * torch.finfo(weight.dtype).eps


def _factorise(
    name: str, change: Tensor, axes: list[str], rank: int, rounding: float
) -> dict[str, Tensor]:
    """The nearest change of a rank, as D [s, in] and A [out, s, *taps], float32.

    Directions that `rounding` alone would give are left out.
    """
    kernel = change
    if axes[0] == "1":
        kernel, axes = change[0], axes[1:]
    if axes[0] == "i":
        kernel = kernel.transpose(0, 1)
    outputs, inputs, *taps = kernel.shape
    matrix = kernel.movedim(1, -1).reshape(-1, inputs)
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # The largest singular value of independent noise of this size.
    noise = rounding * sum(map(math.sqrt, matrix.shape))
    there = max(1, int((values > noise).sum()))
    directions = right[: min(rank, there)].float().contiguous()
    # On the rounded directions, so that their rounding is made up for.
    coefficients = matrix @ directions.double().T
    folded = coefficients.reshape(outputs, *taps, len(directions)).movedim(-1, 1)
    return {f"{name}.D": directions, f"{name}.A": folded.float().contiguous()}


def _apply(name: str, before: Tensor, tensors: dict[str, Tensor], axes: str) -> Tensor:
    patch = Patch.of(tensors, {"layouts": {name: axes}})
    return apply_stack({name: before}, [patch])[name]


def _count_differing(first: Tensor, second: Tensor) -> int:
    """Count the numbers that have other bits: zeros of another sign count, too."""
    size = first.element_size()
    parts = [each.contiguous().reshape(-1).view(torch.uint8) for each in (first, second)]
    differing = (parts[0] != parts[1]).reshape(-1, size).any(dim=1)
    return int(differing.sum())
