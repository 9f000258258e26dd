"""Least squares: the coefficients A from the structure of the layer's function.

``least-squares`` weighs the loss against the predicted collateral. ``closed-form`` is its limit
where the collateral has no price, of layers that are linear from key to value (paper Eqn. 14 and
15, appendix B): of all changes that come as close to V*, the one of least collateral.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from editspec_runtime.core.method import LINEAR, Change, Problem
from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.channelwise import (
    ChannelwiseFunction,
    channelwise_form,
    unit_kernels,
    value_by_channel,
)
from editspec_runtime.maths.channelwise_least_squares import (
    ChannelwiseProblem,
    Point,
    in_the_metric,
    minimise,
    minimise_within,
    trace_curve,
)
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.maths.weighted_squares import WeightedSquares
from editspec_runtime.methods.layer_problem import (
    LayerProblem,
    find_directions,
    solve_in_directions,
)
from editspec_runtime.methods.losses import NOTHING_TO_DO
from editspec_runtime.methods.registry import DEFAULT_METHOD, method_of


def solve(problem: Problem) -> dict[str, Change]:
    """The changes of an edit, rule by rule. Raises `NumericalError` as `find_coefficients` and
    `solve_each` do.
    """
    return solve_in_directions(problem, find_coefficients)


@torch.no_grad()
def find_coefficients(problem: LayerProblem, directions: Tensor) -> Tensor:
    """A of the change A D at the weight of the collateral that the settings have, or within their
    budget.

    Parameters
    ----------
    problem
        The rule, its layer and C.
    directions
        D [s, in], orthonormal rows.

    Returns
    -------
    Tensor
        A, in the shape of the weight with s in place of in; computed in float64.

    Raises
    ------
    NumericalError
        The layer's function has no such form, C is singular in the directions, or the steps do not
        converge.
    """
    channelwise, settings = pose(problem, directions), problem.settings
    shape = (*problem.weight.shape[: problem.weight.ndim - 1 - len(channelwise.taps)],)
    if channelwise.asked <= NOTHING_TO_DO:
        coefficients = channelwise.nothing()
    elif settings.collateral is not None:
        coefficients = minimise_within(channelwise, settings.collateral).coefficients
    else:
        unknowns = minimise(channelwise, settings.collateral_weight, channelwise.nothing())
        coefficients = channelwise.coefficients(unknowns)
    return coefficients.reshape(*shape, -1, *channelwise.taps).to(problem.weight)


@torch.no_grad()
def find_curve(problem: LayerProblem, progress: StepCallback = ignore_steps) -> list[Point]:
    """The trade of the loss against the predicted collateral; no points where the rule holds
    already.
    """
    assert problem.statistics is not None
    rule, statistics = problem.rule, problem.statistics
    directions = find_directions(rule, problem.directions, problem.rank, statistics)
    channelwise = pose(problem, directions)
    if channelwise.asked <= NOTHING_TO_DO:
        return []
    return trace_curve(channelwise, progress)


def pose(problem: LayerProblem, directions: Tensor) -> ChannelwiseProblem:
    """A rule as a problem of least squares. Raises `NumericalError` where it has no such form."""
    weight, directions = problem.weight.double(), directions.double()
    second_moment = problem.moment.to(weight)
    taps = (len(directions), *kernel_of(weight).shape[2:])
    function = _channelwise(problem, weight, directions)
    moment, failed = torch.linalg.cholesky_ex(directions @ second_moment @ directions.T)
    if bool(failed) or not bool(moment.isfinite().all()):
        raise NumericalError(
            "The second moment of the keys is singular in the directions of the context.",
            "Raise statistics.samples, or lower the rank.",
        )
    root = torch.kron(moment.contiguous(), torch.eye(math.prod(taps[1:])).to(moment))
    value = value_by_channel(problem.rule.value.double(), weight)
    nothing = value.new_zeros(value.shape[1], len(root))
    asked = (value - function(nothing)).abs().mean().item()
    if not math.isfinite(asked):
        raise NumericalError(f"The loss is {asked} after 0 steps.", "Use precision: float64.")
    factor = function.demodulation(nothing)[0].square().mean().sqrt().item()
    scale = function.scale * function.gain * factor
    function = in_the_metric(function, root)
    return ChannelwiseProblem(
        function=function,
        value=value,
        asked=asked,
        price=scale**2 / asked**2 if asked else 0.0,
        root=root,
        taps=taps,
        weight=weight,
        second_moment=second_moment,
        squares=WeightedSquares(function.design),
    )


def _channelwise(problem: LayerProblem, weight: Tensor, directions: Tensor) -> ChannelwiseFunction:
    """The layer's function with A alone unknown, in float64."""
    rule, function = problem.rule, problem.function
    arguments = {name: tensor.double() for name, tensor in rule.arguments.items()}
    key = rule.key.double()
    found = channelwise_form(function, key, weight, directions, arguments)
    if found is not None:
        return found
    if LINEAR not in method_of(problem.settings).needs:
        raise NumericalError(
            f"The function of {rule.layer} is not known to act on each output channel alone in a "
            f"{problem.family}, so that the rule is no least-squares problem.",
            f"Use solver: {DEFAULT_METHOD.name}.",
        )
    # A linear function tells its form itself: one output channel for each coefficient, whose
    # kernel is one at its own direction and tap.
    response = function(key, weight, arguments).flatten(2)
    unit = unit_kernels((len(directions), *kernel_of(weight).shape[2:]), key)
    projected = torch.einsum("ni...,si->ns...", key, directions)
    design = function(projected, unit[None] if weight.ndim == 5 else unit, arguments)
    return ChannelwiseFunction(response, design.flatten(2).mT, torch.zeros_like(response[:1]))
