"""A rule as least squares over every tap and unit of its layer, linear in the change.

The value that a rule wants at a position has one answer of the linear part that gives it, so that
the change that is missing there is known. Demodulation counts as it is before the edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.maths.channelwise import (
    ChannelwiseFunction,
    design_of,
    value_by_channel,
)
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.maths.low_rank_regression import find_low_rank, solve_whole
from editspec_runtime.maths.tapped_moments import preserved_moment
from editspec_runtime.methods.layer_problem import LayerProblem


@dataclass(frozen=True)
class Linearised:
    """A rule and its collateral as one quadratic objective of the change of a layer.

    Attributes
    ----------
    moment
        A, [n, n] float64 for n = in * taps: the moment of the rule's keys, plus the collateral
        weight times the metric of what must stay.
    pull
        R, [out, n]: the missing answers times the keys, in the mean over the rule's positions.
    features
        The number of inputs.
    """

    moment: Tensor
    pull: Tensor
    features: int


def linearise(problem: LayerProblem, form: ChannelwiseFunction) -> Linearised:
    """Pose a rule over all inputs and taps of its layer, in float64.

    `form` is the function of any coefficients; only its parts without coefficients are used.
    """
    weight, rule = problem.weight.double(), problem.rule
    units = torch.eye(kernel_of(weight).shape[1]).to(weight)
    arguments = {name: tensor.double() for name, tensor in rule.arguments.items()}
    missing = _missing_answer(form, value_by_channel(rule.value.double(), weight))
    size = len(units) * kernel_of(weight).shape[2:].numel()
    own = weight.new_zeros(size, size)
    pull = weight.new_zeros(missing.shape[1], size)
    # Item by item, because the design of one is already in * taps numbers a position.
    for number, key in enumerate(torch.split(rule.key.double(), 1)):
        given = {
            name: tensor[number : number + 1] if len(tensor) == len(rule.key) else tensor
            for name, tensor in arguments.items()
        }
        (rows,) = design_of(problem.function, key, weight, units, given)
        own += rows.T @ rows
        pull += missing[number] @ rows
    count = len(missing) * missing.shape[2]
    metric = whole_metric(problem, units)
    collateral: float = problem.settings.collateral_weight
    return Linearised(own / count + collateral * metric, pull / count, len(units))


def whole_metric(problem: LayerProblem, units: Tensor) -> Tensor:
    """Compute the metric of what must stay over all inputs and taps, [n, n] float64.

    It is the mean square answer of a change to all keys and to those that are preserved, plus a
    ridge: without it the change takes what no key has for free.
    """
    assert problem.statistics is not None
    settings = problem.settings
    moment = problem.statistics.taps().to(units)
    ridge = settings.ridge * moment.diagonal().mean()
    metric = mix_preserved(problem, units, moment)
    # On the diagonal alone, without another matrix of this size.
    metric = metric.clone()
    metric.diagonal().add_(ridge)
    return metric


def mix_preserved(problem: LayerProblem, directions: Tensor, metric: Tensor) -> Tensor:
    """Give the preserved keys their share of a metric [n, n] of changes in directions D."""
    preserved = problem.rule.preserved
    if preserved is None:
        return metric
    share: float = problem.settings.preserve_share
    weight, directions = problem.weight.double(), directions.double()
    kept = preserved_moment(problem.function, weight, directions, preserved)
    # The keys of the sample have what the preserved keys leave.
    own = 1 - share * float(preserved.value_weights.sum())
    mixed: Tensor = own * metric + share * kept.to(metric)
    return mixed


def learn_directions(problem: LayerProblem, form: ChannelwiseFunction, rank: int) -> Tensor:
    """Find the directions D [rank, in] of the best change of that rank, float64."""
    posed = linearise(problem, form)
    _, directions, _ = find_low_rank(posed.moment, posed.pull, posed.features, rank)
    return _orient(directions, problem.rule.key.double())


def find_whole_change(problem: LayerProblem, form: ChannelwiseFunction) -> Tensor:
    """Find the best change of the whole weight, [out, in, *taps] float64."""
    posed = linearise(problem, form)
    change = solve_whole(posed.moment, posed.pull)
    return change.view(kernel_of(problem.weight).shape)


def _missing_answer(form: ChannelwiseFunction, value: Tensor) -> Tensor:
    """The change of the linear answer that gives a value [J, O, P], unscaled.

    Where a rectifier hides the answer, the one that is nearest to the present answer counts.
    """
    nothing = value.new_zeros(value.shape[1], form.design.shape[2])
    factor = form.demodulation(nothing)[0][..., None]
    present = form.response * factor + form.offset
    wanted = value / form.gain
    if form.slope > 0:
        wanted = torch.where(wanted > 0, wanted, wanted / form.slope)
    else:
        wanted = torch.where(wanted > 0, wanted, present.clamp_max(0))
    missing = torch.where(factor != 0, (wanted - present) / factor, 0)
    return missing / form.scale


def _orient(directions: Tensor, key: Tensor) -> Tensor:
    """Fix the sign of each direction: towards the sum of the rule's keys."""
    total = key.flatten(2).sum((0, 2)) if key.ndim == 4 else key.flatten(0, -2).sum(0)
    signs = torch.where(directions @ total < 0, -1.0, 1.0).to(directions)
    return (directions * signs[:, None]).contiguous()
