"""Adam on every weight, towards the composited outputs (paper Eqn. 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.method import Change, Problem
from editspec_runtime.core.model import Trainable
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.maths.scale import typical_scale
from editspec_runtime.methods.layer_problem import require_nothing_to_do
from editspec_runtime.methods.losses import absolute_difference, compute_outputs, descend


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the one rule of an edit by training every weight.

    Raises `NumericalError` if the rule does not hold yet and Adam finds nothing better than no
    change.
    """
    (resolve,) = problem.rules
    rule = resolve(problem.model)
    changes = {name: Change(full=delta) for name, delta in find_deltas(problem, rule).items()}
    if all(change.is_nothing for change in changes.values()):
        with torch.no_grad():
            outputs = compute_outputs(problem.model, rule.key)
            loss = absolute_difference(outputs, rule.value, rule.arguments["area"])
        require_nothing_to_do(float(loss), problem.settings)
    return changes


def learning_rate(problem: Problem) -> float:
    """The rate of Adam: the one of the settings, relative to the scale of the model's layers.

    One rate serves every tensor. Biases and gains have no scale of their own that would tell.
    """
    settings: Any = problem.settings
    rate: float = settings.learning_rate
    if problem.compatibility.absolute_rate:
        return rate
    model = problem.model
    return rate * typical_scale(model.weight(layer) for layer in model.architecture.layers)


def find_deltas(problem: Problem, rule: LayerRule) -> dict[str, Tensor]:
    """Find by Adam the change of every weight that gives the composited outputs.

    The model, the settings and the loss are those of `problem`. `rule` has the items z, the
    composited outputs and the weight of each of their numbers.
    """
    model = problem.model
    assert isinstance(model, Trainable)
    settings: Any = problem.settings
    loss_of = problem.output_loss or absolute_difference
    free = {name: model.weights[name].clone().requires_grad_() for name in model.trainable()}
    trained = model.with_weights({**model.weights, **free})
    found = descend(
        free.values(),
        lambda: loss_of(compute_outputs(trained, rule.key), rule.value, rule.arguments["area"]),
        steps=settings.steps,
        learning_rate=learning_rate(problem),
        compatibility=problem.compatibility,
        progress=problem.progress,
        on_loss=problem.on_loss,
    )
    return {name: new - model.weights[name] for name, new in zip(free, found, strict=True)}
