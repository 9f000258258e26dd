"""Solvers: from a rule and its directions D to the coefficients A of the change W - W0 = A D."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.rule import Rule
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.adam import Adam
from editspec_runtime.maths.moments import Progress
from editspec_runtime.modalities.image.generator import LayerFunction

LossCallback = Callable[[int, float], None]
"""Called with (steps done, the loss there), wherever a method looks at the loss of what it may
return.
"""


def ignore_loss(step: int, loss: float) -> None:
    """The watch that nobody keeps."""


NOTHING_TO_DO = 1e-6
"""The loss below which a rule holds already."""


@dataclass
class _Best:
    """The best iterate so far among those that satisfy the constraint."""

    loss: float = float("inf")
    coefficients: Tensor = field(default_factory=lambda: torch.empty(0))

    def offer(self, loss: float, coefficients: Tensor) -> None:
        if loss < self.loss:
            self.loss, self.coefficients = loss, coefficients


def rule_loss(function: LayerFunction, rule: Rule, weight: Tensor) -> Tensor:
    """mean |V* - f(K*; W)|, the L1 form of Eqn. 6 that the paper's experiments use; a scalar."""
    return (rule.value - function(rule.key, weight, rule.arguments, haloed=True)).abs().mean()


def delta(coefficients: Tensor, directions: Tensor) -> Tensor:
    """The change A D: [1, out, s, kh, kw] and [s, in] -> [1, out, in, kh, kw]."""
    return torch.einsum("losyx,si->loiyx", coefficients, directions)


def coefficients_of(change: Tensor, directions: Tensor) -> Tensor:
    """A of a change projected into the span of orthonormal rows D: [1, out, in, kh, kw] -> [1, out,
    s, kh, kw].
    """
    return torch.einsum("loiyx,si->losyx", change, directions)


def solve(
    function: LayerFunction,
    weight: Tensor,
    rule: Rule,
    directions: Tensor,
    conventions: Compatibility,
    progress: Progress = lambda done, total: None,
    on_loss: LossCallback = ignore_loss,
) -> Tensor:
    """The coefficients A [1, out, s, kh, kw] of the change that makes `rule` hold, by the rule's
    solver.

    Parameters
    ----------
    function
        The layer's f(k; W).
    weight
        W0 in the shape of the checkpoint, [1, out, in, kh, kw].
    rule
        K*, V* and the settings.
    directions
        D, [s, in], orthonormal rows, in the precision of the weights.
    conventions
        Whether the best iterate is returned, or the last.
    progress, watch
        Told of steps, and of losses.

    Raises
    ------
    NumericalError
        The loss is not finite, or nothing better than no change was found for a rule that does not
        hold yet.
    """
    method: Callable[..., Tensor] = {"projected-gradient": projected_gradient, "direct": direct}[
        rule.solver.method
    ]
    coefficients = method(function, weight, rule, directions, conventions, progress, on_loss)
    if not bool(coefficients.any()) and float(rule_loss(function, rule, weight)) > NOTHING_TO_DO:
        raise NumericalError(
            f"No iterate of {rule.solver.method} is better than the unedited weights: the edit would change nothing.",
            "Lower solver.learning_rate, set project_every: 1, or raise the rank; or edit another layer.",
        )
    return coefficients


def projected_gradient(
    function: LayerFunction,
    weight: Tensor,
    rule: Rule,
    directions: Tensor,
    conventions: Compatibility,
    progress: Progress,
    on_loss: LossCallback,
) -> Tensor:
    """Adam on W, projected into W0 + A D every few steps and at the end (paper section 3.4).

    As in the paper's experiments the projection follows the very first step, and Adam's state is
    not projected.
    """
    settings = rule.solver
    assert settings.project_every is not None
    free = weight.clone().requires_grad_()
    adam = Adam([free], settings.learning_rate)
    answer = function.bound(rule.key, rule.arguments, haloed=True)
    coefficients = coefficients_of(torch.zeros_like(weight), directions)
    best, projected = _Best(), True
    for step in range(settings.steps):
        adam.zero_grad()
        loss = (rule.value - answer(free)).abs().mean()
        if projected:
            best.offer(finite(loss, step, on_loss), coefficients)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.project_gradient:
            assert free.grad is not None
            free.grad.copy_(delta(coefficients_of(free.grad, directions), directions))
        adam.step()
        projected = step % settings.project_every == 0 or step == settings.steps - 1
        if projected:
            with torch.no_grad():
                coefficients = coefficients_of(free - weight, directions)
                free.copy_(weight + delta(coefficients, directions))
            progress(step + 1, settings.steps)
    with torch.no_grad():
        best.offer(finite(rule_loss(function, rule, free), settings.steps, on_loss), coefficients)
    return best.coefficients if conventions.keep_best else coefficients


def direct(
    function: LayerFunction,
    weight: Tensor,
    rule: Rule,
    directions: Tensor,
    conventions: Compatibility,
    progress: Progress,
    on_loss: LossCallback,
) -> Tensor:
    """Adam on A alone, from zero (paper Eqn. 17 and 18): every iterate satisfies the constraint.

    Where the function factors, conv(k; W0 + A D) = conv(k; W0) + conv(D k; A), a step costs s
    instead of in channels.
    """
    settings = rule.solver
    channelwise = function.channelwise(rule.key, weight, directions, rule.arguments, haloed=True)
    wanted = rule.value.flatten(2)

    def loss_of(coefficients: Tensor) -> Tensor:
        """The loss; its gradient becomes the coefficients'."""
        if channelwise is None:
            loss = rule_loss(function, rule, weight + delta(coefficients, directions))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.no_grad():
            loss, gradient = channelwise.loss_and_gradient(coefficients[0].flatten(1), wanted)
        coefficients.grad = gradient.view_as(coefficients)
        return loss

    # Adam goes through memory as it lies, and so lie the gradients.
    coefficients = (
        coefficients_of(torch.zeros_like(weight), directions).contiguous().requires_grad_()
    )
    adam = Adam([coefficients], settings.learning_rate)
    best = _Best()
    for step in range(settings.steps + 1):
        adam.zero_grad()
        loss = loss_of(coefficients)
        if (value := finite(loss, step, on_loss)) < best.loss:
            best.offer(value, coefficients.detach().clone())
        if step < settings.steps:
            adam.step()
            progress(step + 1, settings.steps)
    return best.coefficients if conventions.keep_best else coefficients.detach()


def finite(loss: Tensor, step: int, on_loss: LossCallback) -> float:
    """The loss after `step` steps as a number, which `on_loss` is told. Raises `NumericalError`
    where it is none.
    """
    value = loss.item()
    if value != value or value in (float("inf"), float("-inf")):
        raise NumericalError(
            f"The loss is {value} after {step} steps.",
            "Lower solver.learning_rate, or use precision: float64.",
        )
    on_loss(step, value)
    return value
