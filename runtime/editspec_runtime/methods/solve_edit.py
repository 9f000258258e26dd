"""The solution of an edit by the method that it names, and the loss of its rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_runtime.core.method import OUTPUTS, Change, Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import CompiledEdit, LayerRule, LazyRule, ResolvedEdit
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.methods.layer_problem import rule_function, with_change
from editspec_runtime.methods.losses import (
    absolute_difference,
    compute_outputs,
    missing_value,
    rule_loss,
)
from editspec_runtime.methods.registry import method_of
from editspec_runtime.methods.rule_file import place_as_file


@dataclass(frozen=True)
class Solution:
    """A solved edit.

    Attributes
    ----------
    changes
        The change of each weight by its name in the checkpoint.
    rules
        The resolved rules, each resolved on the model that the rules before it left.
    """

    changes: dict[str, Change]
    rules: list[LayerRule]


@unshared_operations()
def solve_edit(problem: Problem) -> Solution:
    """Solve an edit: find the changes that make its rules hold.

    Raises
    ------
    NumericalError
        The numbers give no answer, or a rule does not hold yet and nothing better than no change is
        found.
    """
    rules: list[LayerRule] = []

    # The method resolves the rules; they are recorded on the way, so that none is resolved twice.
    def record(resolve: LazyRule) -> LazyRule:
        def resolve_and_record(model: Model) -> LayerRule:
            rules.append(resolve(model))
            return rules[-1]

        return resolve_and_record

    lazy = [record(resolve) for resolve in problem.rules]
    changes = method_of(problem.settings).solve(replace(problem, rules=lazy))
    return Solution(changes, rules)


def resolve_rules(
    edit: CompiledEdit, model: Model, changes: Mapping[str, Change]
) -> list[LayerRule]:
    """Resolve the rules of an edit whose changes are known.

    Each rule is resolved on the model that the rules before it left.
    """
    rules: list[LayerRule] = []
    for resolve in edit.rules:
        rule = resolve(model)
        rules.append(rule)
        if len(rules) < len(edit.rules):
            model = with_change(model, rule, changes[rule.parameter])
    return rules


@torch.no_grad()
def loss_of(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> float:
    """The loss of an edit with other weights, as the mean over its rules.

    The loss of a rule is mean |V* - f(K*; W)|. For a method that needs outputs, it is the mean
    absolute difference of the outputs. `weights` are those of a checkpoint; they are converted to
    the precision of the model.
    """
    losses = [_loss_of(edit, rule, model, weights) for rule in _rules_as_in_file(edit)]
    return sum(losses) / len(losses)


@torch.no_grad()
def residual_of(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> float:
    """The share of an edit that other weights leave undone.

    This is |V* - f(K*; W)| / |V* - f(K*; W0)|, where |.| is the root of the sum of squares over all
    rules, and 0 if the denominator is 0. For a method that needs outputs, f are the outputs,
    weighted by their area.
    """
    left = _residual(edit, model, weights)
    before = _residual(edit, model, model.weights)
    return float(left / before) if before else 0.0


def _rules_as_in_file(edit: ResolvedEdit) -> list[LayerRule]:
    """The rules as a reader of their file has them, so that the bits of a loss are the same."""
    return [place_as_file(rule, rule.value.device) for rule in edit.rules]


def _loss_of(
    edit: ResolvedEdit, rule: LayerRule, model: Model, weights: Mapping[str, Tensor]
) -> float:
    if OUTPUTS in method_of(edit.method).needs:
        outputs = _outputs(rule, model, weights)
        return absolute_difference(outputs, rule.value, rule.arguments["area"]).item()
    weight = _stored_weight(rule, model, weights)
    return rule_loss(rule_function(rule, model), rule, weight).item()


def _residual(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    norms = [_missing(edit, rule, model, weights).norm() for rule in _rules_as_in_file(edit)]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    return norm


def _missing(
    edit: ResolvedEdit, rule: LayerRule, model: Model, weights: Mapping[str, Tensor]
) -> Tensor:
    """The difference between the wanted and the actual values (or outputs) of a rule."""
    if OUTPUTS in method_of(edit.method).needs:
        return rule.arguments["area"] * (rule.value - _outputs(rule, model, weights))
    weight = _stored_weight(rule, model, weights)
    return missing_value(rule_function(rule, model), rule, weight)


def _stored_weight(rule: LayerRule, model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    """The edited parameter of a checkpoint, as the function of the rule's layer takes it."""
    stored = weights[rule.parameter].to(model.weight(rule.layer))
    if not model.architecture.layers[rule.layer].axes.startswith("i"):
        return stored
    # Of a square matrix only the model knows which axis comes first.
    return model.with_weights({**model.weights, rule.parameter: stored}).weight(rule.layer)


def _outputs(rule: LayerRule, model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    """Compute the outputs of the items of a rule with other weights."""
    own = model.weight(rule.layer)
    changed = {name: tensor.to(own) for name, tensor in weights.items()}
    return compute_outputs(model.with_weights(changed), rule.key.to(own))
