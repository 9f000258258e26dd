"""Least squares for functions that compute each output channel on its own.

Each output channel is a problem of its own with s * kh * kw unknowns. All channels are solved at
once, in tens of small steps. The unknowns are in the metric of the second moment, so that the
predicted collateral tr(dW C dW^T) (paper Eqn. 4 to 6 and 12, for independent taps of a kernel) is
their sum of squares.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec_runtime.codes import Code
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.channelwise import ChannelwiseFunction
from editspec_runtime.maths.curvature import (
    FEW,
    Curvature,
    FactorisedSolver,
    IterativeSolver,
    ReducedSolver,
    Solver,
    align,
    see,
)
from editspec_runtime.maths.metric import energy
from editspec_runtime.maths.parallel import Threads, count_threads
from editspec_runtime.maths.weighted_squares import WeightedSquares

ROUNDING = 0.1
"""The width over which the kink of |x| is rounded, as a share of the loss before the edit."""
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
ROUNDS = 2
"""The number of linear solves of a start, each with the demodulation that the last one gives."""
KEPT = 0.8
"""The largest share of channels that go on for which the others are dropped."""
NUMBERS, CHANNELS = 2**15, 32
"""The least amount of numbers in a tensor of a block of channels, and of channels in a block.

The steps of fewer take longer to begin than to compute.
"""
CURVE = tuple(10 ** (exponent / 4) for exponent in range(4, -13, -1))
"""The collateral weights of a curve, falling."""


class NotConverged(NumericalError):
    """Steps of least squares that did not reach a minimum."""

    code = Code.NOT_CONVERGED


@dataclass(frozen=True)
class Point:
    """The solution for one weight of the collateral.

    Attributes
    ----------
    collateral_weight
        The weight lambda of the collateral.
    loss
        The loss in the objective, as a share of the loss before the edit.
    collateral
        tr(dW C dW^T) / tr(W C W^T).
    coefficients
        A, [1, out, s, kh, kw] float64.
    """

    collateral_weight: float
    loss: float
    collateral: float
    coefficients: Tensor


@dataclass(frozen=True)
class _State:
    """The state of a problem at some unknowns.

    There are O channels, J items and P positions.
    """

    unknowns: Tensor  # [O, n]
    answer: Tensor  # [J, O, P], before demodulation
    pull: Tensor  # [J, O, n], half the gradient of the sum of squares of the demodulation
    factor: Tensor  # [J, O], of the demodulation
    slope: Tensor  # [J, O, P], the derivative of the value by the demodulated answer
    # [J, O, P], 1 / |demodulated answer|, rounded at the kink of the activation; 0 if clamped.
    near: Tensor
    residual: Tensor  # [J, O, P]
    # [J, O, P], 1 / |residual|, rounded at its kink: the weight of the reweighted least squares.
    weight: Tensor
    loss: Tensor  # [O]

    def where(self, better: Tensor, other: _State) -> _State:
        """Take this state for the channels that are `better` [O], else the other."""
        if bool(better.all()):
            return self
        chosen = {}
        for name, mine in vars(self).items():
            where = better if name in ("factor", "loss") else better[:, None]
            chosen[name] = torch.where(where, mine, getattr(other, name))
        return _State(**chosen)


@dataclass(frozen=True)
class ChannelwiseProblem:
    """A rule as a problem of least squares, in float64.

    The problem is to minimise over the unknowns b [O, n], channel by channel,

        loss(b) + collateral_weight * price * |b|^2

    `loss` is the mean of |V* - f|, rounded at its kinks over a width of `width`, as a share of that
    mean before the edit. For a layer that is linear from key to value, it is the mean square
    instead, as in Eqn. 6 to 15 of the paper.

    Attributes
    ----------
    function
        f(K*; W0 + A D), with its unknowns in the metric of C.
    value
        V*, [J, O, P].
    asked
        The loss before the edit, mean |V* - f(K*; W0)|.
    price
        The predicted mean square change of the values over all keys for |b|^2 = 1, as a share of
        asked^2.
    root
        The Cholesky factor of the metric of what must stay, [n, n]: b = a root.
    moment_root
        The Cholesky factor of D C D^T for every tap, [n, n], which the reported collateral is in.
        It is `root` where nothing is preserved.
    taps
        [s, kh, kw].
    weight, second_moment
        W0 [1, out, in, kh, kw] and C [in, in].
    squares
        The products of the columns of the function's design, shared by all channels.
    """

    function: ChannelwiseFunction
    value: Tensor
    asked: float
    price: float
    root: Tensor
    moment_root: Tensor
    taps: tuple[int, ...]
    weight: Tensor
    second_moment: Tensor
    squares: WeightedSquares

    @cached_property
    def energy(self) -> float:
        """The denominator of the collateral: tr(W C W^T), unscaled.

        Raises `NumericalError` if it is zero.
        """
        found = energy(self.weight, self.second_moment)
        if not found:
            raise NumericalError(
                "The weights of the layer are zero, so that there is no collateral as a share of "
                "what they give.",
                "Give solver.collateral_weight instead of solver.collateral, and leave --pareto "
                "out.",
            )
        return found

    @cached_property
    def singular(self) -> tuple[Tensor, Tensor, Tensor]:
        """The singular value decomposition of the design of all items.

        The left vectors are [J * P, n], the values [n], the right vectors [n, n].
        """
        design = self.function.design.flatten(0, 1)
        left, values, right = torch.linalg.svd(design, full_matrices=False)
        return left, values, right

    @property
    def count(self) -> int:
        """The number of values of each channel."""
        return len(self.value) * self.value.shape[2]

    @property
    def blocks(self) -> int:
        """The number of blocks of channels that are solved on their own.

        A GPU computes all channels at once.
        """
        if self.value.device.type != "cpu":
            return 1
        channels = self.value.shape[1]
        numbers = channels * max(self.count, len(self.root))
        return max(1, min(numbers // NUMBERS, channels // CHANNELS))

    @property
    def linear(self) -> bool:
        """Whether the values are linear in the weight."""
        return self.function.energy is None and self.function.slope == 1.0

    @property
    def width(self) -> float:
        """The width over which kinks are rounded."""
        # Not zero where the rule holds already: the width is divided by.
        return max(ROUNDING * self.asked, 1e-100)

    def nothing(self) -> Tensor:
        """The unknowns of no change, [O, n]."""
        return self.value.new_zeros(self.value.shape[1], len(self.root))

    def start(self, collateral_weight: float) -> Tensor:
        """Find unknowns [O, n] from which few steps lead to the least objective.

        They are those of least squares on the answers before activation, whose factorisation all
        channels share. A channel for which no change is better starts at none.

        All start at none where a rule of more positions than unknowns cannot be met: there, such a
        start gains nothing. So do all at collateral_weight 0, for the reason that `minimise` has.
        """
        best, function = self.nothing(), self.function
        if self.linear or collateral_weight == 0 or self.count > len(self.root):
            return best
        rows = function.design.flatten(0, 1)
        # Near the wanted value the rounded |x| is x^2 / (2 * width).
        slopes = function.gain * function.demodulation(best)[0]
        scale = 2 * self.width * self.asked * self.count / slopes.square().mean()
        # Of the positions, which are fewer than the unknowns.
        moment = rows @ rows.mT
        moment.diagonal().add_(collateral_weight * self.price * scale)
        root, _ = torch.linalg.cholesky_ex(moment)
        least = self.objective(best, collateral_weight)
        for _ in range(ROUNDS):
            missing = function.missing_answer(self.value, best).transpose(0, 1).flatten(1)
            found = torch.cholesky_solve(missing.mT, root).mT @ rows
            objective = self.objective(found, collateral_weight)
            # Never where it is not a number, as where the moment has no root.
            better = objective < least
            best = torch.where(better[:, None], found, best)
            least = torch.where(better, objective, least)
        return best

    def channels(self, chosen: Tensor) -> ChannelwiseProblem:
        """Make the problem of the output channels `chosen` alone."""
        function = self.function
        names = ("response", "offset", "energy", "cross", "multiplier")
        per_channel = {name: getattr(function, name) for name in names}
        function = dataclasses.replace(
            function, **{n: t[:, chosen] for n, t in per_channel.items() if t is not None}
        )
        return dataclasses.replace(self, function=function, value=self.value[:, chosen])

    def objective(self, unknowns: Tensor, collateral_weight: float) -> Tensor:
        """Compute the objective of each channel, [O]."""
        return self.at(unknowns).loss + collateral_weight * self.price * unknowns.square().sum(1)

    def coefficients(self, unknowns: Tensor) -> Tensor:
        """Convert the unknowns to A, [1, out, s, kh, kw].

        Raises `NumericalError` if A is not finite.
        """
        coefficients: Tensor = torch.linalg.solve_triangular(
            self.root, unknowns, upper=False, left=False
        )
        if not bool(coefficients.isfinite().all()):
            raise NumericalError(
                "Least squares gives coefficients that are not finite.",
                "Raise solver.collateral_weight.",
            )
        return coefficients.view(1, -1, *self.taps)

    def point(self, unknowns: Tensor, collateral_weight: float) -> Point:
        """Convert the unknowns to a point of the curve."""
        loss = self.at(unknowns).loss.mean().item()
        coefficients = self.coefficients(unknowns)
        if self.moment_root is not self.root:
            unknowns = coefficients.view(unknowns.shape) @ self.moment_root
        collateral = unknowns.square().sum().item() / self.energy
        return Point(collateral_weight, loss, collateral, coefficients)

    def at(self, unknowns: Tensor) -> _State:
        """Compute the state of the problem at these unknowns."""
        function, width = self.function, self.width
        answer, (factor, pull) = function.answer(unknowns), function.demodulation(unknowns)
        whole = torch.addcmul(function.offset, answer, factor[..., None])
        # leaky_relu(x) = mean x + bend |x|, and |x| is rounded to sqrt(x^2 + width^2).
        mean = function.gain * (1 + function.slope) / 2
        bend = function.gain * (1 - function.slope) / 2
        # Roots and divisions take far longer than the rest, so that there is one for each kink.
        square = whole.square().add_(width**2)
        near = square.rsqrt()
        value = (mean * whole).add_(square.mul_(near), alpha=bend)
        slope = (whole * near).mul_(bend).add_(mean)
        if function.clamp is not None:
            inside = value.abs() <= function.clamp
            value = value.clamp(-function.clamp, function.clamp)
            slope, near = slope * inside, near * inside
        residual = value - self.value
        square = residual.square().add_(width**2)
        weight = square.rsqrt()
        if self.linear:
            loss = residual.square().mean((0, 2)) / self.asked**2
        else:
            loss = (square.mul_(weight).mean((0, 2)) - width) / self.asked
        return _State(unknowns, answer, pull, factor, slope, near, residual, weight, loss)

    def gradient(self, state: _State) -> Tensor:
        """Compute the gradient of the loss of each channel, [O, n]."""
        _, push = self._forces(state)
        shrinking = state.factor.square() * (push * state.answer).sum(-1)
        return (push @ self.function.design - shrinking[..., None] * state.pull).sum(0)

    def _forces(self, state: _State) -> tuple[Tensor, Tensor]:
        """Compute the derivatives of the loss by each value and by each answer.

        The first one is multiplied by `asked` and `count`.
        """
        force = state.residual * (2 / self.asked if self.linear else state.weight)
        scale = state.factor[..., None] / (self.asked * self.count)
        return force, (force * state.slope).mul_(scale)

    def curvature(self, state: _State, newton: Tensor) -> Curvature:
        """Compute the curvature of the loss of each channel.

        The curvature is that of the reweighted least squares, which majorise the loss, with a
        linearised demodulation factor. It is positive semidefinite. For the channels in `newton`
        [O], it is the curvature of the loss itself, which may be indefinite.
        """
        design, (force, push) = self.function.design, self._forces(state)
        shrinking = state.factor.square()[..., None]
        weight = state.slope.square().mul_(state.weight)
        if bool(newton.any()):
            bend = self.function.gain * (1 - self.function.slope) / 2
            # The second derivatives of the two rounded absolute values, of residual and activation.
            kink = (state.near**3).mul_(bend * self.width**2)
            own = weight * (self.width * state.weight).square_() + force * kink
            weight = torch.where(newton[:, None], own, weight)
        weight *= shrinking / (self.asked * self.count)
        bent = weight * state.answer
        pulled = shrinking * (bent @ design)
        energy = shrinking.square() * (bent * state.answer).sum(-1, keepdim=True)
        share = torch.zeros_like(energy)
        if self.function.gram is not None:
            # The second derivative of the demodulated answer, which a linearised factor omits.
            share = newton[:, None] * shrinking
            pulled = pulled + share * (push @ design)
            share = share * (push * state.answer).sum(-1, keepdim=True)
            energy = energy + 3 * shrinking * share
        return Curvature(design, weight, state.pull, pulled, energy, share, self.function.gram)

    def solver(self, state: _State, newton: Tensor) -> Solver:
        """Make the solver of the quadratic model of each channel, as `curvature` has it."""
        curvature = self.curvature(state, newton)
        if len(self.root) <= FEW:
            return FactorisedSolver(curvature.matrices(self.squares))
        if self.squares.design.shape[2] < len(self.root):
            return ReducedSolver.of(curvature, state.unknowns, self.squares)
        return IterativeSolver.of(curvature)

    @cached_property
    def aligned(self) -> tuple[ChannelwiseProblem, Tensor]:
        """The problem in axes in which the columns of the design are orthogonal.

        Returns the problem of the unknowns b Q, and Q [n, n], which is orthogonal.
        """
        function, axes = self.function, align(self.function.design.flatten(0, 1))
        cross, gram = function.cross, function.gram
        function = dataclasses.replace(
            function,
            design=function.design @ axes,
            cross=None if cross is None else cross @ axes,
            gram=None if gram is None else axes.mT @ gram @ axes,
        )
        squares = WeightedSquares(function.design)
        hidden = 1 + (1 if gram is None else len(gram))
        if self.count + hidden < len(axes):
            squares = see(function.design, self.count, hidden)
        return dataclasses.replace(self, function=function, squares=squares), axes


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
    blocks = torch.arange(len(start), device=start.device).tensor_split(problem.blocks)
    if len(blocks) == 1:
        return _descend(problem, collateral_weight, start)

    def descend(chosen: Tensor) -> Tensor:
        return _descend(problem.channels(chosen), collateral_weight, start[chosen])

    with Threads(min(count_threads(), len(blocks))) as threads:
        return torch.cat(list(threads.map(descend, blocks)))


def _descend(problem: ChannelwiseProblem, collateral_weight: float, start: Tensor) -> Tensor:
    """Find the minimum by steps from `start`."""
    unknowns, active = start.clone(), torch.arange(len(start), device=start.device)
    part, price = problem, collateral_weight * problem.price
    state = part.at(start)
    damping, size = start.new_full((len(start),), 1e-3), start.new_zeros(len(start))
    newton = torch.zeros_like(size, dtype=torch.bool)
    for _ in range(STEPS):
        objective = state.loss + price * state.unknowns.square().sum(1)
        gradient = part.gradient(state) + 2 * price * state.unknowns
        solver = part.solver(state, newton)
        size = torch.where(newton, size, solver.sizes)
        step, sound = solver.step(gradient, 2 * price + damping * size)
        promise = -(gradient * step).sum(1)
        trial = part.at(state.unknowns + step)
        gained = objective - trial.loss - price * trial.unknowns.square().sum(1)
        # A quadratic model promises half of the gradient times the step: `true` is 1 for it.
        better, true = gained > 0, 2 * gained / promise
        state = trial.where(better, state)
        promise = torch.where(sound, promise, math.inf)
        newton = newton | (better & (promise < NEWTON * objective))
        # As in Levenberg and Marquardt: less damping after a good prediction, more after a bad one,
        # and where the curvature of the loss itself is indefinite.
        raised = torch.where(sound & (true >= 0.25), 1.0, 10.0)
        damping = damping * torch.where(sound & (true > 0.75), 0.2, raised)
        damping = torch.where(sound, damping, damping.clamp_min(1e-3)).clamp(1e-6, 1e6)
        # One channel may lack as much as all of them together may.
        if float(promise.sum()) <= TOLERANCE * len(start):
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
    if float(promise.sum()) > GOOD_ENOUGH * reached:
        raise NotConverged(
            f"Least squares has not converged after {STEPS} steps.",
            "Raise solver.collateral_weight, or lower the rank.",
        )
    return unknowns


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
