"""Least squares for functions that compute each output channel on its own.

Each output channel is a problem of its own with s * kh * kw unknowns. All channels are solved at
once, in tens of small steps. The unknowns are in the metric of the second moment, so that the
predicted collateral tr(dW C dW^T) (paper Eqn. 4 to 6 and 12, for independent taps of a kernel) is
their sum of squares.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

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
from editspec_runtime.maths.weighted_squares import WeightedSquares

ROUNDING = 0.1
"""The width over which the kink of |x| is rounded, as a share of the loss before the edit."""
CURVE = tuple(10 ** (exponent / 4) for exponent in range(4, -13, -1))
"""The collateral weights of a curve, falling."""


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
class State:
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

    def where(self, better: Tensor, other: State) -> State:
        """Take this state for the channels that are `better` [O], else the other."""
        if bool(better.all()):
            return self
        chosen = {}
        for name, mine in vars(self).items():
            where = better if name in ("factor", "loss") else better[:, None]
            chosen[name] = torch.where(where, mine, getattr(other, name))
        return State(**chosen)


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
        nothing, function = self.nothing(), self.function
        if self.linear or collateral_weight == 0 or self.count > len(self.root):
            return nothing
        rows = function.design.flatten(0, 1)
        # Near the wanted value the rounded |x| is x^2 / (2 * width).
        slopes = function.gain * function.unedited_factor
        scale = 2 * self.width * self.asked * self.count / slopes.square().mean()
        # Of the positions, which are fewer than the unknowns.
        moment = rows @ rows.mT
        moment.diagonal().add_(collateral_weight * self.price * scale)
        root, _ = torch.linalg.cholesky_ex(moment)
        missing = function.missing_answer(self.value).transpose(0, 1).flatten(1)
        found = torch.cholesky_solve(missing.mT, root).mT @ rows
        least = self.objective(nothing, collateral_weight)
        # Never where it is not a number, as where the moment has no root.
        better = self.objective(found, collateral_weight) < least
        return torch.where(better[:, None], found, nothing)

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

    def at(self, unknowns: Tensor) -> State:
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
        return State(unknowns, answer, pull, factor, slope, near, residual, weight, loss)

    def gradient(self, state: State) -> Tensor:
        """Compute the gradient of the loss of each channel, [O, n]."""
        _, push = self._forces(state)
        shrinking = state.factor.square() * (push * state.answer).sum(-1)
        return (push @ self.function.design - shrinking[..., None] * state.pull).sum(0)

    def _forces(self, state: State) -> tuple[Tensor, Tensor]:
        """Compute the derivatives of the loss by each value and by each answer.

        The first one is multiplied by `asked` and `count`.
        """
        force = state.residual * (2 / self.asked if self.linear else state.weight)
        scale = state.factor[..., None] / (self.asked * self.count)
        return force, (force * state.slope).mul_(scale)

    def curvature(self, state: State, newton: Tensor) -> Curvature:
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

    def solver(self, state: State, newton: Tensor) -> Solver:
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
