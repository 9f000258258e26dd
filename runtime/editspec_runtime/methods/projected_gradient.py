"""Adam on the weight, projected into the directions (paper section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.low_rank import coefficients_of, delta
from editspec_runtime.methods.layer_problem import LayerProblem, solve_in_directions
from editspec_runtime.methods.losses import Best, require_finite, rule_loss


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """
    return solve_in_directions(problem, find_coefficients)


def find_coefficients(problem: LayerProblem, directions: Tensor) -> Tensor:
    """Find A of the change W - W0 = A D by projected Adam on W.

    W is projected into W0 + A D after the first step, after every `project_every` steps and after
    the last step. Adam's state is not projected. Both are as in the paper's experiments.

    Parameters
    ----------
    problem
        The rule and its layer.
    directions
        D [s, in], orthonormal rows, in the precision of the weight.

    Returns
    -------
    Tensor
        A, in the shape of the weight with s in place of in.
    """
    settings, rule, weight = problem.settings, problem.rule, problem.weight
    free = weight.clone().requires_grad_()
    adam = Adam([free], problem.learning_rate)
    answer = problem.function.with_key(rule.key, rule.arguments)
    coefficients = coefficients_of(torch.zeros_like(weight), directions)
    best, projected = Best(), True
    for step in range(settings.steps):
        adam.zero_grad()
        loss = (rule.value - answer(free)).abs().mean()
        if projected:
            # Only a weight that was just projected satisfies the constraint.
            best.offer(require_finite(loss, step, problem.on_loss), coefficients)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.project_gradient:
            assert free.grad is not None
            free.grad.copy_(delta(coefficients_of(free.grad, directions), directions))
        adam.step()
        # Steps count from 0: the first one is projected, as in the authors' code.
        projected = step % settings.project_every == 0 or step == settings.steps - 1
        if projected:
            with torch.no_grad():
                coefficients = coefficients_of(free - weight, directions)
                free.copy_(weight + delta(coefficients, directions))
            problem.progress(step + 1, settings.steps)
    with torch.no_grad():
        loss = rule_loss(problem.function, rule, free)
        best.offer(require_finite(loss, settings.steps, problem.on_loss), coefficients)
    if problem.compatibility.keep_best:
        return best.iterate
    return coefficients
