"""Adam on the whole weight of a layer, without directions (paper Eqn. 6)."""

from __future__ import annotations

from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.methods.layer_problem import LayerProblem, solve_each
from editspec_runtime.methods.losses import descend, rule_loss


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """

    def solve_layer(each: LayerProblem) -> Change:
        delta = find_delta(each)
        return Change(full=problem.model.to_checkpoint(each.rule.layer, delta))

    return solve_each(problem, solve_layer)


def find_delta(problem: LayerProblem) -> Tensor:
    """Find the change of W by Adam without any constraint, in the shape of W."""
    free = problem.weight.clone().requires_grad_()
    (found,) = descend(
        [free],
        lambda: rule_loss(problem.function, problem.rule, free),
        steps=problem.settings.steps,
        learning_rate=problem.learning_rate,
        compatibility=problem.compatibility,
        progress=problem.progress,
        on_loss=problem.on_loss,
    )
    return found - problem.weight
