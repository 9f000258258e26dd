"""Adam on the coefficients of the directions (paper Eqn. 17 and 18)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.channelwise import channelwise_form, value_by_channel
from editspec_runtime.maths.low_rank import coefficients_of, delta, kernel_of
from editspec_runtime.methods.layer_problem import LayerProblem, solve_in_directions
from editspec_runtime.methods.losses import Best, require_finite, rule_loss


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Raises `NumericalError` as `solve_each` does.
    """
    return solve_in_directions(problem, find_coefficients)


def find_coefficients(problem: LayerProblem, directions: Tensor) -> Tensor:
    """Find A of the change W - W0 = A D by Adam on A, from zero.

    Every iterate satisfies the constraint. Where the function is channelwise,
    conv(k; W0 + A D) = conv(k; W0) + conv(D k; A), and a step costs s instead of in channels.
    Parameters and result are those of projected gradient descent.
    """
    settings, rule, weight = problem.settings, problem.rule, problem.weight
    channelwise = channelwise_form(problem.function, rule.key, weight, directions, rule.arguments)

    def loss_of(coefficients: Tensor) -> Tensor:
        """Compute the loss, and store its gradient at the coefficients."""
        if channelwise is None:
            loss = rule_loss(problem.function, rule, weight + delta(coefficients, directions))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.no_grad():
            wanted = value_by_channel(rule.value, weight)
            flat = kernel_of(coefficients).flatten(1)
            loss, gradient = channelwise.loss_and_gradient(flat, wanted)
        coefficients.grad = gradient.view_as(coefficients)
        return loss

    # The fused step of Adam walks through memory in order: coefficients and gradients need the
    # same layout, and `view_as` above gives gradients that are contiguous.
    start = coefficients_of(torch.zeros_like(weight), directions)
    coefficients = start.contiguous().requires_grad_()
    adam = Adam([coefficients], problem.learning_rate)
    best = Best()
    for step in range(settings.steps + 1):
        adam.zero_grad()
        value = require_finite(loss_of(coefficients), step, problem.on_loss)
        if value < best.loss:
            best.offer(value, coefficients.detach().clone())
        if step < settings.steps:
            adam.step()
            problem.progress(step + 1, settings.steps)
    return best.iterate if problem.compatibility.keep_best else coefficients.detach()
