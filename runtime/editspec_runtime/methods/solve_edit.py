"""From a compiled edit to the changes of the weights, by whatever method the edit names; and how
well weights keep its rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_runtime.core.method import OUTPUTS, Change, Problem
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import CompiledEdit, LayerRule, LazyRule, ResolvedEdit
from editspec_runtime.methods.layer_problem import rule_function, with_change
from editspec_runtime.methods.losses import (
    absolute_difference,
    compute_outputs,
    missing_value,
    rule_loss,
)
from editspec_runtime.methods.registry import method_of


@dataclass(frozen=True)
class Solution:
    """A solved edit.

    Attributes
    ----------
    changes
        The change of each weight by its name in the checkpoint.
    rules
        The rules as they were resolved, each on the model that the rules before it left.
    """

    changes: dict[str, Change]
    rules: list[LayerRule]


def solve_edit(problem: Problem) -> Solution:
    """The changes that make the rules of an edit hold.

    Raises
    ------
    NumericalError
        The numbers give no answer, or nothing better than no change was found for a rule that does
        not hold yet.
    """
    rules: list[LayerRule] = []

    def recorded(resolve: LazyRule) -> LazyRule:
        def resolve_and_record(model: Model) -> LayerRule:
            rules.append(resolve(model))
            return rules[-1]

        return resolve_and_record

    lazy = [recorded(resolve) for resolve in problem.rules]
    changes = method_of(problem.settings).solve(replace(problem, rules=lazy))
    return Solution(changes, rules)


def resolve_rules(
    edit: CompiledEdit, model: Model, changes: Mapping[str, Change]
) -> list[LayerRule]:
    """The rules of an edit whose changes are known: each on the model that those before it left."""
    rules: list[LayerRule] = []
    for resolve in edit.rules:
        rule = resolve(model)
        rules.append(rule)
        if len(rules) < len(edit.rules):
            model = with_change(model, rule, changes[rule.parameter])
    return rules


@torch.no_grad()
def loss_of(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> float:
    """The loss of an edit with other weights: mean |V* - f(K*; W)|, or of outputs where the method
    is about them; the mean over the rules.

    `weights` are those of a checkpoint; they are brought to the precision of the model.
    """
    losses = [_loss_of(edit, rule, model, weights) for rule in edit.rules]
    return sum(losses) / len(losses)


@torch.no_grad()
def residual_of(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> float:
    """The share of an edit that other weights leave: |V* - f(K*; W)| / |V* - f(K*; W0)|, root of
    the sum of squares over all rules; 0 where W0 leaves nothing.

    Where the method is about outputs, the residual is of their numbers that count.
    """
    left = _residual(edit, model, weights)
    before = _residual(edit, model, model.weights)
    return float(left / before) if before else 0.0


def _loss_of(
    edit: ResolvedEdit, rule: LayerRule, model: Model, weights: Mapping[str, Tensor]
) -> float:
    if OUTPUTS in method_of(edit.method).needs:
        outputs = _outputs(rule, model, weights)
        return absolute_difference(outputs, rule.value, rule.arguments["area"]).item()
    weight = weights[rule.parameter].to(model.weight(rule.layer))
    return rule_loss(rule_function(rule, model), rule, weight).item()


def _residual(edit: ResolvedEdit, model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    norms = [_missing(edit, rule, model, weights).norm() for rule in edit.rules]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    return norm


def _missing(
    edit: ResolvedEdit, rule: LayerRule, model: Model, weights: Mapping[str, Tensor]
) -> Tensor:
    """What the values, or the outputs that count, of a rule lack with these weights."""
    if OUTPUTS in method_of(edit.method).needs:
        return rule.arguments["area"] * (rule.value - _outputs(rule, model, weights))
    weight = weights[rule.parameter].to(model.weight(rule.layer))
    return missing_value(rule_function(rule, model), rule, weight)


def _outputs(rule: LayerRule, model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    """The outputs of a rule's inputs with other weights."""
    own = model.weight(rule.layer)
    changed = {name: tensor.to(own) for name, tensor in weights.items()}
    return compute_outputs(model.with_weights(changed), rule.key.to(own))
