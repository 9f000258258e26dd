"""Least squares: the coefficients A from the structure of the layer's function.

``least-squares`` weighs the loss against the predicted collateral. ``closed-form`` is its limit at
price zero, for layers that are linear from key to value (paper Eqn. 14 and 15, appendix B). Among
all changes that come equally close to V*, it gives the one with the least collateral.
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor

from editspec_runtime.core.method import LEARNED, LINEAR, Change, CurvePoint, Problem
from editspec_runtime.core.model import LayerFunction
from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.channelwise import (
    ChannelwiseFunction,
    Movable,
    channelwise_form,
    linear_design,
    value_by_channel,
)
from editspec_runtime.maths.channelwise_least_squares import ChannelwiseProblem
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.maths.low_rank_regression import project_taps
from editspec_runtime.maths.robust_least_squares import (
    minimise_from_above,
    minimise_within,
    trace_curve,
)
from editspec_runtime.maths.weighted_squares import WeightedSquares
from editspec_runtime.methods.layer_problem import (
    LayerProblem,
    find_directions,
    solve_each,
    solve_in_directions,
)
from editspec_runtime.methods.linearised import (
    find_whole_change,
    learn_directions,
)
from editspec_runtime.methods.losses import NOTHING_TO_DO
from editspec_runtime.methods.registry import PROJECTED_GRADIENT, method_of
from editspec_runtime.methods.rule_file import place_as_file
from editspec_runtime.methods.shared_keys import are_shared, solve_shared

FEW_OPERATIONS = 2**23
"""The multiplications of all answers below which a rule is solved on the CPU, whatever made it.

Steps are chains of small operations, which take longer to begin on a GPU than to compute here.
"""
RIDGE = 1e-8
"""The ridge of D C D^T where it is singular, as a share of the mean of the diagonal of C."""


def solve(problem: Problem) -> dict[str, Change]:
    """Solve the rules of an edit, one after the other.

    Without a rank, the change of a whole weight is found at once, from the linearised rule. Raises
    `NumericalError` as `find_coefficients` and `solve_each` do.
    """

    def solve_whole(each: LayerProblem) -> Change:
        with torch.no_grad():
            change = find_whole_change(each, _form(each)).to(each.weight)
        delta = change.view(each.weight.shape)
        return Change(full=problem.model.to_checkpoint(each.rule.layer, delta))

    if are_shared(problem):
        return solve_shared(problem)
    if problem.rank is None:
        return solve_each(problem, solve_whole)
    if problem.directions == LEARNED:
        return solve_each(problem, _solve_learned)
    return solve_in_directions(problem, find_coefficients)


@torch.no_grad()
def _solve_learned(problem: LayerProblem) -> Change:
    """Find directions together with the change, and then the coefficients of the rule itself."""
    directions = learned_directions(problem).to(problem.weight)
    return Change(directions, kernel_of(find_coefficients(problem, directions)))


def learned_directions(problem: LayerProblem) -> Tensor:
    """Find the directions of ``directions: learned``, [rank, in] float64."""
    assert problem.rank is not None
    return learn_directions(problem, _form(problem), problem.rank)


def _form(problem: LayerProblem) -> ChannelwiseFunction:
    """The function of a rule with one direction, whose other parts do not depend on directions."""
    weight = problem.weight.double()
    one = torch.eye(kernel_of(weight).shape[1])[:1].to(weight)
    return _channelwise(problem, weight, one)


@torch.no_grad()
def find_coefficients(problem: LayerProblem, directions: Tensor) -> Tensor:
    """Find A of the change A D that balances the loss and the collateral.

    The settings give the weight of the collateral, or a budget for it.

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
    if channelwise.asked <= NOTHING_TO_DO:
        coefficients = channelwise.nothing()
    elif settings.collateral is not None:
        coefficients = minimise_within(channelwise, settings.collateral).coefficients
    else:
        weight = problem.collateral_weight
        reached = minimise_from_above(channelwise, weight)
        if reached.collateral_weight > weight:
            problem.on_note(
                f"the steps of {problem.rule.layer} do not converge at a collateral weight of "
                f"{weight:g}: the change is that of "
                f"{reached.collateral_weight:.3g}"
            )
        coefficients = channelwise.coefficients(reached.unknowns)
    return _shape_as_weight(coefficients, channelwise, problem)


def _shape_as_weight(
    coefficients: Tensor, channelwise: ChannelwiseProblem, problem: LayerProblem
) -> Tensor:
    """Shape coefficients as the weight is, in its precision."""
    # Some weights have an axis of length 1 before [out, in, *taps].
    axes_before = problem.weight.ndim - 1 - len(channelwise.taps)
    shape = problem.weight.shape[:axes_before]
    return coefficients.reshape(*shape, -1, *channelwise.taps).to(problem.weight)


@torch.no_grad()
def find_curve(problem: LayerProblem, progress: StepCallback = ignore_steps) -> list[CurvePoint]:
    """Find the change of each weight of the collateral, falling.

    The curve has no points if the rule holds already.
    """
    assert problem.statistics is not None
    if problem.directions == LEARNED:
        directions = learned_directions(problem).to(problem.rule.value)
    else:
        share: float = problem.settings.preserve_share
        directions = find_directions(
            problem.rule, problem.directions, problem.rank, problem.statistics, share
        )
    channelwise = pose(problem, directions)
    if channelwise.asked <= NOTHING_TO_DO:
        return []
    points = []
    for point in trace_curve(channelwise, progress):
        coefficients = _shape_as_weight(point.coefficients, channelwise, problem)
        change = Change(directions, kernel_of(coefficients))
        points.append(CurvePoint(point.collateral_weight, change))
    return points


def pose(problem: LayerProblem, directions: Tensor) -> ChannelwiseProblem:
    """Pose a rule as a problem of least squares, in float64; a small one on the CPU.

    Raises `NumericalError` if the rule has no such form, if C is singular in the directions, or if
    the loss is not finite.
    """
    taps = (len(directions), *kernel_of(problem.weight).shape[2:])
    small = problem.rule.value.numel() * math.prod(taps) < FEW_OPERATIONS
    if small:
        problem = _bring_to_cpu(problem)
    weight = problem.weight.double()
    directions = directions.to(weight)
    function = _channelwise(problem, weight, directions)
    if small:
        function = function.to(torch.device("cpu"))
    place = function.design.device
    second_moment, projected = problem.moment.to(place), directions.to(place)
    moment = _root_of(problem, projected @ second_moment @ projected.T)
    # The taps count as independent: C for all taps is block diagonal, and so is its root.
    moment_root = torch.kron(moment.contiguous(), torch.eye(math.prod(taps[1:])).to(moment))
    root = _metric_root(problem, directions, moment_root)
    value = value_by_channel(problem.rule.value.double(), weight).to(place)
    asked = (value - function.unedited).abs().mean().item()
    if not math.isfinite(asked):
        raise NumericalError(f"The loss is {asked} after 0 steps.", "Use precision: float64.")
    # The collateral of the linear output counts as much as what the values show of it: the gain,
    # and the demodulation in the mean over images and channels.
    factor = function.unedited_factor.square().mean().sqrt().item()
    scale = function.scale * function.gain * factor
    function = function.whiten(root)
    return ChannelwiseProblem(
        function=function,
        value=value,
        asked=asked,
        price=scale**2 / asked**2 if asked else 0.0,
        root=root,
        moment_root=moment_root,
        taps=taps,
        weight=problem.weight,
        second_moment=second_moment,
        squares=WeightedSquares(function.design),
    )


def _bring_to_cpu(problem: LayerProblem) -> LayerProblem:
    """Bring a problem to the CPU with its function, if that can go there."""
    function, cpu = problem.function, torch.device("cpu")
    if problem.weight.device == cpu or not isinstance(function, Movable):
        return problem
    return dataclasses.replace(
        problem,
        rule=place_as_file(problem.rule, cpu),
        function=cast(LayerFunction, function.to(cpu)),
        weight=problem.weight.to(cpu),
    )


def _metric_root(problem: LayerProblem, directions: Tensor, moment_root: Tensor) -> Tensor:
    """The Cholesky factor of the metric of what must stay, [n, n].

    It is that of C, but for learned directions, whose metric counts the taps together, and where
    keys are preserved.
    """
    if problem.directions == LEARNED:
        metric = project_taps(problem.whole_metric, directions).to(moment_root)
    elif problem.rule.preserved is not None:
        metric = problem.mix_preserved(directions, moment_root @ moment_root.mT)
    else:
        return moment_root
    root: Tensor = torch.linalg.cholesky(metric)
    return root


def _root_of(problem: LayerProblem, moment: Tensor) -> Tensor:
    """The Cholesky factor of D C D^T, [s, s]; with a ridge where the matrix is singular.

    Raises `NumericalError` if the matrix is not finite.
    """
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(moment)
    if not bool(failed) and bool(root.isfinite().all()):
        return root
    ridge = RIDGE * problem.moment.diagonal().mean().to(moment)
    root, failed = torch.linalg.cholesky_ex(moment + ridge * torch.eye(len(moment)).to(moment))
    if bool(failed) or not bool(root.isfinite().all()):
        raise NumericalError(
            "The second moment of the keys is singular in the directions of the context.",
            "Raise statistics.samples, or lower the rank.",
        )
    problem.on_note(
        f"the second moment of {problem.rule.layer} is singular in the directions of the context, "
        f"and has a ridge of {RIDGE:g} of the mean square of a key"
    )
    return root


def _channelwise(problem: LayerProblem, weight: Tensor, directions: Tensor) -> ChannelwiseFunction:
    """The layer's function of the coefficients A alone, in float64."""
    rule, function = problem.rule, problem.function
    arguments = {name: tensor.double() for name, tensor in rule.arguments.items()}
    key = rule.key.double()
    found = channelwise_form(function, key, weight, directions, arguments)
    if found is not None:
        return found
    if LINEAR not in method_of(problem.settings).needs:
        raise NumericalError(
            f"The function of {rule.layer} is not known to act on each output channel alone in a "
            f"{problem.family}, so that the rule is not a least-squares problem.",
            f"Use solver: {PROJECTED_GRADIENT.name}.",
        )
    response = function(key, weight, arguments).flatten(2)
    design = linear_design(function, key, weight, directions, arguments)
    return ChannelwiseFunction(response, design, torch.zeros_like(response[:1]))
