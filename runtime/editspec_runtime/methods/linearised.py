"""A rule as least squares over every tap and unit of its layer, linear in the change.

The value that a rule wants at a position has one answer of the linear part that gives it, so that
the change that is missing there is known. Demodulation counts as it is before the edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.core.rule import key_rows
from editspec_runtime.maths.channelwise import (
    ChannelwiseFunction,
    designs_of,
    value_by_channel,
)
from editspec_runtime.maths.directions import orient
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.maths.low_rank_regression import find_low_rank, solve_whole
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
    value = value_by_channel(rule.value.double(), weight)
    missing = form.missing_answer(value) / form.scale
    size = len(units) * kernel_of(weight).shape[2:].numel()
    own = weight.new_zeros(size, size)
    pull = weight.new_zeros(missing.shape[1], size)
    designs = designs_of(problem.function, rule.key, weight, units, rule.arguments)
    for rows, asked in zip(designs, missing, strict=True):
        own += rows.T @ rows
        pull += asked @ rows
    count = len(missing) * missing.shape[2]
    moment = own / count + problem.collateral_weight * problem.whole_metric
    return Linearised(moment, pull / count, len(units))


def learn_directions(problem: LayerProblem, form: ChannelwiseFunction, rank: int) -> Tensor:
    """Find the directions D [rank, in] of the best change of that rank, float64."""
    posed = linearise(problem, form)
    _, directions, _ = find_low_rank(posed.moment, posed.pull, posed.features, rank)
    # The directions have no context to point to.
    return orient(directions.T, key_rows(problem.rule.key.double()))


def find_whole_change(problem: LayerProblem, form: ChannelwiseFunction) -> Tensor:
    """Find the best change of the whole weight, [out, in, *taps] float64."""
    posed = linearise(problem, form)
    change = solve_whole(posed.moment, posed.pull)
    return change.view(kernel_of(problem.weight).shape)
