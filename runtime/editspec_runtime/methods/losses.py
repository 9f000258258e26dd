"""The losses that methods minimise, and the steps that the methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.model import LayerFunction, Model
from editspec_runtime.core.progress import LossCallback, StepCallback
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.adam import Adam

NOTHING_TO_DO = 1e-6
"""The loss below which a rule holds already."""


def missing_value(function: LayerFunction, rule: LayerRule, weight: Tensor) -> Tensor:
    """The difference V* - f(K*; W), in the shape of V*."""
    return rule.value - function(rule.key, weight, rule.arguments)


def rule_loss(function: LayerFunction, rule: LayerRule, weight: Tensor) -> Tensor:
    """The scalar mean |V* - f(K*; W)|: the L1 form of Eqn. 6, as in the experiments."""
    return missing_value(function, rule, weight).abs().mean()


def squared_loss(
    function: LayerFunction, rule: LayerRule, weight: Tensor, compatibility: Compatibility
) -> Tensor:
    """The scalar mean |V* - f(K*; W)|^2 of Eqn. 6."""
    loss = missing_value(function, rule, weight).square().mean()
    if compatibility.states_added and len(rule.key) > 1:
        # The sum of the means of two halves is twice the mean of the whole.
        return 2 * loss
    return loss


def absolute_difference(outputs: Tensor, wanted: Tensor, area: Tensor) -> Tensor:
    """The mean absolute difference of outputs [n, c, ...], weighted by their area.

    `area` is [n, 1, ...]: the weight of every position, shared by its channels.
    """
    return (area * (outputs - wanted)).abs().sum() / (area.sum() * outputs.shape[1])


def compute_outputs(model: Model, items: Tensor) -> Tensor:
    """Compute the outputs [n, ...] of items [n, ...], one at a time.

    Under the authors' compatibility an output depends on its place in the batch.
    """
    return torch.cat([model.outputs(item) for item in torch.split(items, 1)])


def require_finite(loss: Tensor, step: int, on_loss: LossCallback) -> float:
    """Return the loss after `step` steps as a number, and call `on_loss` with it.

    Raises `NumericalError` if the loss is infinite or not a number.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise NumericalError(
            f"The loss is {value} after {step} steps.",
            "Lower solver.learning_rate, or use precision: float64.",
        )
    on_loss(step, value)
    return value


@dataclass
class Best:
    """The best iterate so far among those that satisfy the constraint."""

    loss: float = float("inf")
    iterate: Tensor = field(default_factory=lambda: torch.empty(0))

    def offer(self, loss: float, iterate: Tensor) -> None:
        """Keep `iterate` where its loss is the lowest so far."""
        if loss < self.loss:
            self.loss, self.iterate = loss, iterate


def descend(
    free: Iterable[Tensor],
    loss_of: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    compatibility: Compatibility,
    progress: StepCallback,
    on_loss: LossCallback,
) -> list[Tensor]:
    """Minimise a loss of the tensors `free` by Adam, without a constraint.

    Returns the best iterate, or the last one where `compatibility` says so. The loss is computed
    once more after the last step, so that the last iterate can be the best.
    """
    free = list(free)
    adam = Adam(free, learning_rate)
    best, best_loss = [tensor.detach().clone() for tensor in free], float("inf")
    for step in range(steps + 1):
        adam.zero_grad()
        loss = loss_of()
        value = require_finite(loss, step, on_loss)
        if value < best_loss and compatibility.keep_best:
            best, best_loss = [tensor.detach().clone() for tensor in free], value
        if step == steps:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        progress(step + 1, steps)
    return best if compatibility.keep_best else [tensor.detach() for tensor in free]
