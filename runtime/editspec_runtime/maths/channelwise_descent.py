"""Steps down to the minimum of a `ChannelwiseProblem`.

Each output channel is a problem of its own; all of them are solved at once, in tens of small steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec_runtime.codes import Code
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.channelwise_least_squares import ChannelwiseProblem, State
from editspec_runtime.maths.curvature import FEW, Damped
from editspec_runtime.maths.parallel import Threads, count_threads

TOLERANCE = 1e-7
"""A channel is done when the next step promises less than this share of the loss before."""
STEPS = 200
"""The largest number of steps."""
GOOD_ENOUGH = 1e-3
"""The largest promise of a step after `STEPS` steps, as a share of the objective."""
NEWTON = 0.03
"""The promise below which steps use the curvature of the loss itself (Newton's method).

It is a share of the objective of a channel.
"""
AGAIN = 1e3
"""The largest promise of a step after which its curvature gives a second one.

It is a share of the promise at which all channels are done.
"""
KEPT = 0.8
"""The largest share of channels that go on for which the others are dropped."""
NUMBERS, CHANNELS = 2**15, 32
"""The least amount of numbers in a tensor of a block of channels, and of channels in a block.

The steps of fewer take longer to begin than to compute.
"""


class NotConverged(NumericalError):
    """Steps of least squares that did not reach a minimum."""

    code = Code.NOT_CONVERGED


def minimise(problem: ChannelwiseProblem, collateral_weight: float, start: Tensor) -> Tensor:
    """Find the unknowns [O, n] of least objective, from `start`.

    The steps are damped. They use the curvature of the reweighted least squares first, and that of
    the loss itself near the minimum. Each channel has its own damping, never gets worse, and leaves
    when it is done. At collateral_weight 0, unknowns that the rule does not determine stay as in
    `start`. From zero, the solution thus has the least collateral of all that fit equally well.

    Raises `NotConverged` if `STEPS` steps are not enough. At collateral_weight 0 there may be no
    minimum, because demodulation may make a change better the larger it becomes.
    """
    if problem.linear:
        return _linear(problem, collateral_weight)
    if len(problem.root) <= FEW:
        return _descend_in_blocks(problem, collateral_weight, start)
    aligned, axes = problem.aligned
    unknowns: Tensor = _descend_in_blocks(aligned, collateral_weight, start @ axes) @ axes.mT
    return unknowns


def _descend_in_blocks(
    problem: ChannelwiseProblem, collateral_weight: float, start: Tensor
) -> Tensor:
    """Find the minimum block by block of channels, as many at once as there are threads."""
    count = count_blocks(problem)
    blocks = torch.arange(len(start), device=start.device).tensor_split(count)
    if len(blocks) == 1:
        return _descend(problem, collateral_weight, start)

    def descend(chosen: Tensor) -> Tensor:
        return _descend(problem.channels(chosen), collateral_weight, start[chosen])

    with Threads(min(count_threads(), len(blocks))) as threads:
        return torch.cat(list(threads.map(descend, blocks)))


def count_blocks(problem: ChannelwiseProblem) -> int:
    """The number of blocks of channels; 1 on a GPU, which computes all channels at once."""
    if problem.value.device.type != "cpu":
        return 1
    channels = problem.value.shape[1]
    numbers = channels * max(problem.count, len(problem.root))
    return max(1, min(numbers // NUMBERS, channels // CHANNELS))


def _descend(problem: ChannelwiseProblem, collateral_weight: float, start: Tensor) -> Tensor:
    """Find the minimum by steps from `start`."""
    unknowns, active = start.clone(), torch.arange(len(start), device=start.device)
    part, price = problem, collateral_weight * problem.price
    state = part.at(start)
    damping, size = start.new_full((len(start),), 1e-3), start.new_zeros(len(start))
    newton = torch.zeros_like(size, dtype=torch.bool)
    for _ in range(STEPS):
        solver = part.solver(state, newton)
        size = torch.where(newton, size, solver.sizes)
        damped = solver.damp(2 * price + damping * size)
        tried = _try_step(part, price, state, damped)
        newton = newton | (tried.better & (tried.promise < NEWTON * tried.objective))
        # As in Levenberg and Marquardt: less damping after a good prediction, more after a bad one,
        # and where the curvature of the loss itself is indefinite.
        sound, true = tried.sound, tried.true
        raised = torch.where(sound & (true >= 0.25), 1.0, 10.0)
        damping = damping * torch.where(sound & (true > 0.75), 0.2, raised)
        damping = torch.where(sound, damping, damping.clamp_min(1e-3)).clamp(1e-6, 1e6)
        # One channel may lack as much as all of them together may.
        enough = TOLERANCE * len(start)
        if enough < tried.promised <= AGAIN * enough:
            # So near the minimum the curvature has hardly changed, and a second step by it costs
            # far less than the next one.
            tried = _try_step(part, price, tried.state, damped)
        state, promise = tried.state, tried.promise
        if tried.promised <= enough:
            unknowns[active] = state.unknowns
            return unknowns
        going = promise > TOLERANCE
        # Channels that are done are dropped only in larger groups, because dropping copies tensors.
        if int(going.sum()) <= KEPT * len(active):
            unknowns[active] = state.unknowns
            kept = going.nonzero()[:, 0]
            active, part = active[kept], part.channels(kept)
            damping, size, newton = damping[kept], size[kept], newton[kept]
            state = part.at(state.unknowns[kept])
    unknowns[active] = state.unknowns
    reached = float(problem.objective(unknowns, collateral_weight).sum())
    if tried.promised > GOOD_ENOUGH * reached:
        raise NotConverged(
            f"Least squares has not converged after {STEPS} steps.",
            "Raise solver.collateral_weight, or lower the rank.",
        )
    return unknowns


@dataclass(frozen=True)
class _Tried:
    """A step that was tried, each tensor [O].

    Attributes
    ----------
    state
        The state after it, for the channels that it does not make better the one before.
    objective
        The objective before it.
    better
        Whether it makes the objective less.
    true
        The share of the promise that came true; 1 for a quadratic objective.
    promise
        Twice what the model promises; infinite where the curvature is indefinite.
    sound
        Whether the curvature is positive definite.
    """

    state: State
    objective: Tensor
    better: Tensor
    true: Tensor
    promise: Tensor
    sound: Tensor

    @cached_property
    def promised(self) -> float:
        """The promise to all channels together."""
        return float(self.promise.sum())


def _try_step(part: ChannelwiseProblem, price: float, state: State, damped: Damped) -> _Tried:
    """Take the step of a damped model for every channel that it makes better."""
    objective = state.loss + price * state.unknowns.square().sum(1)
    gradient = part.gradient(state) + 2 * price * state.unknowns
    step, sound = damped.step(gradient)
    # A quadratic model promises half of the gradient times the step.
    promise = -(gradient * step).sum(1)
    trial = part.at(state.unknowns + step)
    gained = objective - trial.loss - price * trial.unknowns.square().sum(1)
    better, true = gained > 0, 2 * gained / promise
    promise = torch.where(sound, promise, math.inf)
    return _Tried(trial.where(better, state), objective, better, true, promise, sound)


def _linear(problem: ChannelwiseProblem, collateral_weight: float) -> Tensor:
    """Find the minimum for a layer linear from key to value, by ridge regression.

    All channels share one design up to a factor. The design itself is decomposed: its product with
    its transpose would square its condition number, and at price zero the solution would lose half
    of its digits.
    """
    left, shared, right = problem.singular
    nothing = problem.at(problem.nothing())
    scale = (problem.asked**2 * problem.count) ** 0.5
    gain = problem.function.gain * nothing.factor[0, :, None] / scale
    wanted = -nothing.residual.transpose(0, 1).flatten(1) @ left / scale
    values, price = gain * shared, collateral_weight * problem.price
    # The solution of least norm does not touch directions that no key of the rule sees. Their
    # singular values are rounding alone, and at price zero it would divide by them.
    rounding = max(problem.function.design.flatten(0, 1).shape) * torch.finfo(values.dtype).eps
    seen = (shared > shared[:1] * rounding) & (values != 0)
    shares = torch.where(seen, values / (values.square() + price), 0)
    unknowns: Tensor = (shares * wanted) @ right
    return unknowns
