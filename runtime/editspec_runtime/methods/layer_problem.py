"""The problem of one rule, and the loop over all rules of an edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.core.method import Change, KeyStatistics, Problem, Settings
from editspec_runtime.core.model import (
    LayerFunction,
    Model,
    Observable,
    ObservableModel,
    ObservedFunction,
)
from editspec_runtime.core.progress import (
    LossCallback,
    NoteCallback,
    StepCallback,
    ignore_loss,
    ignore_note,
    ignore_steps,
)
from editspec_runtime.core.rule import LayerRule, PreservedKeys, key_rows
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.directions import count_missing, directions
from editspec_runtime.maths.low_rank import exact_delta, kernel_of
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.maths.scale import scale_of
from editspec_runtime.maths.tapped_moments import preserved_moment
from editspec_runtime.methods.losses import NOTHING_TO_DO, rule_loss
from editspec_runtime.methods.refine import refine
from editspec_runtime.methods.rule_file import place_as_file


@dataclass(frozen=True)
class LayerProblem:
    """A rule on a model, and everything that a method needs to solve the rule.

    Attributes
    ----------
    rule
        K*, V* and the context.
    function
        f(k; W): the layer's own function, or the function up to the observed layer.
    weight
        W0 [out, in, *taps]; some models have an axis of length 1 before these.
    settings
        The settings of the method.
    rank, directions
        As in `CompiledEdit`.
    statistics
        The statistics of the layer's keys; None only for methods that do not need them.
    family
        The model's family, for messages.
    compatibility, progress, on_loss, on_note
        As in `Problem`.
    """

    rule: LayerRule
    function: LayerFunction
    weight: Tensor
    settings: Any
    rank: int | None = None
    directions: str | None = None
    statistics: KeyStatistics | None = None
    family: str = ""
    compatibility: Compatibility = EDITSPEC
    progress: StepCallback = ignore_steps
    on_loss: LossCallback = ignore_loss
    on_note: NoteCallback = ignore_note

    @property
    def learning_rate(self) -> float:
        """The rate of Adam: the one of the settings, relative to the scale of the weight."""
        rate: float = self.settings.learning_rate
        if self.compatibility.absolute_rate:
            return rate
        return rate * scale_of(self.weight)

    @property
    def collateral_weight(self) -> float:
        """The weight of the collateral beside the mean square over the keys of the rule."""
        given: float = self.settings.collateral_weight
        features = kernel_of(self.weight).shape[1]
        return self.compatibility.collateral_weight(given, features, len(key_rows(self.rule.key)))

    @property
    def moment(self) -> Tensor:
        """C of the layer's keys, [in, in] float64."""
        assert self.statistics is not None
        return self.statistics.moment()

    @cached_property
    def whole_metric(self) -> Tensor:
        """The metric of what must stay over all inputs and taps, [in * taps, in * taps] float64.

        It is the mean square answer of a change to all keys and to those that are preserved, plus a
        ridge: without it the change takes what no key has for free.
        """
        assert self.statistics is not None
        weight = self.weight.double()
        units = torch.eye(kernel_of(weight).shape[1]).to(weight)
        moment = self.statistics.taps().to(units)
        ridge = self.settings.ridge * moment.diagonal().mean()
        metric = self.mix_preserved(units, moment).clone()
        # On the diagonal alone, without another matrix of this size.
        metric.diagonal().add_(ridge)
        return metric

    def mix_preserved(self, directions: Tensor, metric: Tensor) -> Tensor:
        """Give the preserved keys their share of a metric [n, n] of changes in directions D."""
        preserved = self.rule.preserved
        if preserved is None:
            return metric
        share: float = self.settings.preserve_share
        weight, directions = self.weight.double(), directions.double()
        kept = preserved_moment(self.function, weight, directions, preserved)
        return preserved.mix(share, metric, kept.to(metric), preserved.value_weights)


def rule_function(rule: LayerRule, model: Model) -> LayerFunction:
    """The function f(k; W) of a rule: of its layer, or up to its observed layer."""
    if rule.observe is None:
        return model.function(rule.layer)
    assert isinstance(model, Observable)
    return ObservedFunction(cast(ObservableModel, model), rule.layer, rule.observe)


def find_directions(
    rule: LayerRule,
    kind: str | None,
    rank: int | None,
    statistics: KeyStatistics,
    preserve_share: float = 0.0,
) -> Tensor:
    """Find the directions D of a rule from its context, [rank, in] in the precision of the rule.

    What is preserved has its share in the second moment that the context is whitened by: directions
    that preserved keys have are avoided.
    """
    assert kind is not None
    assert rank is not None
    moment = statistics.moment()
    if rule.preserved is not None:
        moment = mix_moment(rule.preserved, moment, preserve_share)
    # The statistics are float64 on the CPU, whatever computes the model.
    keys, weights = rule.context_keys.cpu(), rule.context_weights.cpu()
    found = directions(kind, moment, keys, weights, rank, statistics.sample)
    return found.to(rule.value)


def mix_moment(preserved: PreservedKeys, moment: Tensor, share: float) -> Tensor:
    """Give preserved keys their `share` of a second moment, [in, in] float64 on the CPU."""
    rows, shares = preserved.rows()
    estimator = SecondMomentEstimator(rows.shape[1])
    estimator.update(rows.cpu(), shares.cpu())
    kept = estimator.estimate()
    return preserved.mix(share, moment, kept.weight * kept.matrix, preserved.key_weights)


def layer_problem(problem: Problem, rule: LayerRule, model: Model) -> LayerProblem:
    """Pose a rule of an edit on the model that the rules before it left.

    The rule is as a reader of its file has it: another order of memory would give other bits.
    """
    weight = model.weight(rule.layer)
    return LayerProblem(
        place_as_file(rule, weight.device),
        rule_function(rule, model),
        weight,
        problem.settings,
        problem.rank,
        problem.directions,
        problem.statistics(model, rule.layer),
        model.architecture.family,
        problem.compatibility,
        problem.progress,
        problem.on_loss,
        problem.on_note,
    )


def solve_each(
    problem: Problem, solve_layer: Callable[[LayerProblem], Change]
) -> dict[str, Change]:
    """Solve the rules of an edit one after the other.

    Each rule is resolved on the model that the rules before it left. Raises `NumericalError` if a
    rule does not hold yet and nothing better than no change is found.
    """
    model, changes = problem.model, dict[str, Change]()
    for number, resolve in enumerate(problem.rules, start=1):
        rule = resolve(model)
        each = layer_problem(problem, rule, model)
        change = solve_layer(each)
        if rule.refinement is not None:
            change = refine(problem, model, each.rule, change)
        require_better(each, change)
        changes[rule.parameter] = change
        if number < len(problem.rules):
            model = with_change(model, rule, change)
    return changes


def solve_in_directions(
    problem: Problem, find_coefficients: Callable[[LayerProblem, Tensor], Tensor]
) -> dict[str, Change]:
    """Solve the rules of an edit by a method that finds A for given directions D."""
    known: dict[str, Tensor] = {}

    def solve_layer(each: LayerProblem) -> Change:
        assert each.statistics is not None
        keys = problem.model.architecture.layers[each.rule.layer].keys
        if keys in known:  # layers that read the same keys have the same directions
            found = known[keys]
        else:
            share: float = each.settings.preserve_share
            found = find_directions(each.rule, each.directions, each.rank, each.statistics, share)
            note_missing(each)
            if keys:
                known[keys] = found
        return Change(found, kernel_of(find_coefficients(each, found)))

    return solve_each(problem, solve_layer)


def note_missing(problem: LayerProblem) -> None:
    """Note that some directions occur in no key, so that C is inverted without them."""
    missing = count_missing(problem.moment)
    if missing:
        problem.on_note(
            f"{missing} of {len(problem.moment)} directions of the keys of {problem.rule.layer} "
            "never occur in its sample, and the second moment is inverted without them"
        )


def require_better(problem: LayerProblem, change: Change) -> None:
    """Raise a `NumericalError` if nothing changes and the rule does not hold yet."""
    if not change.is_nothing:
        return
    loss = rule_loss(problem.function, problem.rule, problem.weight.detach())
    require_nothing_to_do(float(loss), problem.settings)


def require_nothing_to_do(loss: float, settings: Settings) -> None:
    """Raise a `NumericalError` if `loss`, of no change, is above `NOTHING_TO_DO`."""
    if loss > NOTHING_TO_DO:
        raise NumericalError(
            f"{settings.method} finds nothing better than the unedited weights: the edit would "
            "change nothing.",
            f"{settings.hint()}, give context that holds the target, or edit another layer.",
        )


def with_change(model: Model, rule: LayerRule, change: Change) -> Model:
    """Make the model with the weight of a rule changed.

    The change is added in float64 and rounded once, as when a patch is applied: the rules that
    follow see the bits that the patched model has.
    """
    old = model.weight(rule.layer)
    if change.full is not None:
        delta = change.full.detach().cpu().double()
        new = model.weights[rule.parameter].cpu().double() + delta
    else:
        assert change.coefficients is not None
        assert change.directions is not None
        delta = exact_delta(change.coefficients, change.directions)
        new = model.to_checkpoint(rule.layer, old.cpu().double() + delta.view(old.shape))
    return model.with_weights({**model.weights, rule.parameter: new.to(old)})
