"""Adam on the weight, whose change is cut to a rank by SVD (paper section 5.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.low_rank import coefficients_of, delta, kernel_of
from editspec_runtime.methods.layer_problem import LayerProblem, solve_each
from editspec_runtime.methods.losses import require_finite, squared_loss


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """
    return solve_each(problem, find_factors)


def find_factors(problem: LayerProblem) -> Change:
    """Find the factors D and A of a change by Adam on the weight.

    D is [rank, in] with orthonormal rows, A is [out, rank, *taps]. The SVD takes the change as a
    matrix from input channels to output channels and taps. The loss is the squared one of Eqn. 6.
    """
    settings, weight, rank = problem.settings, problem.weight, problem.rank
    assert rank is not None
    free = weight.clone().requires_grad_()
    adam = Adam([free], problem.learning_rate)
    factors = _cut(torch.zeros_like(weight), rank)
    best, best_loss, cut = factors, float("inf"), True
    for step in range(settings.steps + 1):
        adam.zero_grad()
        loss = squared_loss(problem.function, problem.rule, free, problem.compatibility)
        if cut:
            # Only a weight that was just cut satisfies the constraint.
            value = require_finite(loss, step, problem.on_loss)
            if value < best_loss:
                best, best_loss = factors, value
        if step == settings.steps:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        # The first cut comes after `project_every` steps, as in the paper's experiment. In
        # projected-gradient it comes after the first step.
        cut = (step + 1) % settings.project_every == 0 or step == settings.steps - 1
        if cut:
            with torch.no_grad():
                factors = _cut(free - weight, rank)
                free.copy_(weight + delta(factors[1], factors[0]).view(weight.shape))
            problem.progress(step + 1, settings.steps)
    if problem.compatibility.keep_best:
        return Change(*best)
    return Change(*factors)


def _cut(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Cut a change to its largest singular values.

    Returns D [rank, in] and A [out, rank, *taps].
    """
    kernel = kernel_of(change)
    matrix = kernel.movedim(1, 0).flatten(1)
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    directions = left[:, :rank].T.contiguous()
    return directions, coefficients_of(kernel, directions)
