"""From a rule to the change of the weights, by whatever method the rule names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.rule import Rule
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.directions import directions
from editspec_runtime.maths.moments import Progress
from editspec_runtime.methods.baselines import (
    ImageLoss,
    ablation,
    absolute_difference,
    all_weights,
    drawn,
    low_rank,
    one_layer,
)
from editspec_runtime.methods.closed_form import closed_form
from editspec_runtime.methods.least_squares import least_squares
from editspec_runtime.methods.solvers import (
    NOTHING_TO_DO,
    LossCallback,
    ignore_loss,
    rule_loss,
    solve,
)
from editspec_runtime.modalities.image.generator import Generator, LayerFunction, ObservedFunction
from editspec_runtime.patches.patch import Patch


@dataclass(frozen=True)
class Keys:
    """What is known of the keys of a layer; each is computed when it is asked for.

    Attributes
    ----------
    moment
        C, [in_channels, in_channels] float64.
    sample
        Keys of many images, [p, in_channels], columns sorted.
    """

    moment: Callable[[], Tensor]
    sample: Callable[[], Tensor]


def rule_directions(rule: Rule, keys: Keys) -> Tensor:
    """D of a rule that has directions, [rank, in_channels] in the precision of the rule."""
    assert rule.directions is not None
    assert rule.rank is not None
    context, weights = rule.context_keys.cpu(), rule.context_weights.cpu()
    found = directions(rule.directions, keys.moment(), context, weights, rule.rank, keys.sample)
    return found.to(rule.value)


def rule_function(rule: Rule, generator: Generator) -> LayerFunction:
    """f(k; W) of a rule: the layer's own function, or what is seen of it at the observed layer."""
    if rule.observe is None:
        return generator.function(rule.layer)
    return ObservedFunction(generator, rule.layer, rule.observe)


def change_of(
    rule: Rule,
    generator: Generator,
    keys: Keys,
    conventions: Compatibility,
    progress: Progress = lambda done, total: None,
    image_loss: ImageLoss | None = None,
    on_loss: LossCallback = ignore_loss,
) -> Patch:
    """The change that makes `rule` hold: a patch that says nothing of itself yet.

    Parameters
    ----------
    rule, generator
        The rule, and the model that it was resolved on.
    keys
        What is known of the layer's keys.
    conventions
        Whether the best iterate is returned, or the last.
    image_loss
        What ``all-weights`` minimises; default: the mean absolute difference where pixels count.
    watch
        Told of the losses on the way; nothing by the methods that take no steps.

    Raises
    ------
    NumericalError
        The numbers give no answer, or nothing better than no change was found for a rule that does
        not hold yet.
    """
    method, parameter = rule.solver.method, rule.parameter
    function, weight = rule_function(rule, generator), generator.weight(rule.layer)
    if method == "all-weights":
        change = Patch(
            {}, {}, {}, all_weights(generator, rule, conventions, progress, image_loss, on_loss)
        )
    elif method == "layer":
        delta = one_layer(function, weight, rule, conventions, progress, on_loss)
        change = Patch({}, {}, {}, {parameter: generator.stored(rule.layer, delta)})
    elif method in ("low-rank", "ablate"):
        d, a = (
            ablation(weight, rule.units)
            if method == "ablate"
            else low_rank(function, weight, rule, conventions, progress, on_loss)
        )
        change = Patch({parameter: d}, {parameter: a}, {})
    elif method in ("closed-form", "least-squares"):
        d = rule_directions(rule, keys)
        a = (closed_form if method == "closed-form" else least_squares)(
            function, weight, rule, d, keys.moment()
        )
        change = Patch({parameter: d}, {parameter: a[0]}, {})
    else:
        d = rule_directions(rule, keys)
        a = solve(function, weight, rule, d, conventions, progress, on_loss)
        return Patch({parameter: d}, {parameter: a[0]}, {})
    if not any(
        bool(tensor.any()) for name, tensor in change.tensors().items() if not name.endswith(".D")
    ):
        _require_nothing_to_do(rule, generator)
    return change


@torch.no_grad()
def loss_of(rule: Rule, generator: Generator, weights: Mapping[str, Tensor]) -> float:
    """The loss of a rule with other weights: mean |V* - f(K*; W)|, or of pixels where the rule is
    about images.

    `weights` are those of a checkpoint; they are brought to the precision of the generator.
    """
    own = generator.weight(rule.layer)
    if rule.solver.method == "all-weights":
        model = generator.with_weights({name: tensor.to(own) for name, tensor in weights.items()})
        return absolute_difference(
            drawn(model, rule.key), rule.value, rule.arguments["area"]
        ).item()
    return rule_loss(rule_function(rule, generator), rule, weights[rule.parameter].to(own)).item()


@torch.no_grad()
def residual_of(rule: Rule, generator: Generator, weights: Mapping[str, Tensor]) -> float:
    """What other weights leave of a rule: |V* - f(K*; W)| / |V* - f(K*; W0)|, root of the sum of
    squares; 0 where W0 leaves nothing. Where the rule is about images, the same of their pixels.
    """
    left, before = (
        _missing(rule, generator, those).norm() for those in (weights, generator.weights)
    )
    return float(left / before) if before else 0.0


def _missing(rule: Rule, generator: Generator, weights: Mapping[str, Tensor]) -> Tensor:
    """What the values (or the pixels that count) of a rule lack with these weights."""
    own = generator.weight(rule.layer)
    if rule.solver.method == "all-weights":
        model = generator.with_weights({name: tensor.to(own) for name, tensor in weights.items()})
        return rule.arguments["area"] * (rule.value - drawn(model, rule.key))
    weight = weights[rule.parameter].to(own)
    return rule.value - rule_function(rule, generator)(
        rule.key, weight, rule.arguments, haloed=True
    )


def _require_nothing_to_do(rule: Rule, generator: Generator) -> None:
    if loss_of(rule, generator, generator.weights) > NOTHING_TO_DO:
        settings, first = rule.solver, "Lower the learning rate where there is one"
        if settings.method == "least-squares":
            first = (
                "Raise solver.collateral"
                if settings.collateral is not None
                else "Lower solver.collateral_weight"
            )
        raise NumericalError(
            f"{settings.method} finds nothing better than the unedited weights: the edit would change nothing.",
            f"{first}, give context that holds the target, or edit another layer.",
        )
