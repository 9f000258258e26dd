"""Ablation: the weights from the erased units become zero (GAN Dissection)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.methods.layer_problem import solve_each


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """
    return solve_each(problem, lambda each: ablate_units(each.weight, each.rule.units))


def ablate_units(weight: Tensor, units: Iterable[int]) -> Change:
    """Make the change after which W does not read `units` of its key.

    D [s, in] has one-hot rows, one for each unit. A is [out, s, *taps].
    """
    rows = torch.tensor(list(units), dtype=torch.long, device=weight.device)
    kernel = kernel_of(weight)
    directions = torch.eye(kernel.shape[1]).to(kernel)[rows]
    return Change(directions, -kernel[:, rows])
