"""Least squares of a function that acts on each output channel alone, in tens of small steps.

Each output channel is a problem of its own, on s * kh * kw unknowns, and all of them are solved at
once. The unknowns are measured in the metric of the second moment, so that the predicted collateral
tr(dW C dW^T) (paper Eqn. 4 to 6 and 12, the taps of a kernel taken as independent) is their sum of
squares.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.channelwise import ChannelwiseFunction
from editspec_runtime.maths.metric import energy
from editspec_runtime.maths.weighted_squares import WeightedSquares

ROUNDING = 0.1
"""Where |x| is rounded at its kink, as a share of the loss before the edit: there the loss is
smooth.
"""
TOLERANCE = 1e-7
"""A channel is done when a further step promises less than this share of the objective."""
STEPS = 200
"""Steps at most."""
GOOD_ENOUGH = 1e-3
"""After that many steps, what a further one may promise at most, as a share of the objective."""
NEWTON = 0.03
"""Below this promise, as a share of a channel's objective, the steps take the loss's own
curvature.
"""
BISECTIONS = 14
"""Halvings of the collateral_weight, as a logarithm, in the search for a budget's."""
CURVE = tuple(10 ** (exponent / 4) for exponent in range(4, -13, -1))
"""The collateral weights of a curve, falling."""


@dataclass(frozen=True)
class Point:
    """The answer that one weight of the collateral gives.

    Attributes
    ----------
    collateral_weight
        The weight lambda of the collateral.
    loss
        The objective's loss as a share of the loss before the edit.
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
    """Where a problem stands: everything by channel O, image J and position P."""

    unknowns: Tensor  # [O, n]
    answer: Tensor  # [J, O, P], before demodulation
    pull: Tensor  # [J, O, n], half the gradient of the demodulation's sum of squares
    factor: Tensor  # [J, O]
    slope: Tensor  # [J, O, P], of the value over the demodulated answer
    # [J, O, P], one over that answer, rounded at the activation's kink; 0 where it is clamped.
    near: Tensor
    residual: Tensor  # [J, O, P]
    # [J, O, P], one over the residual, rounded at its kink: that of the reweighted least squares.
    weight: Tensor
    loss: Tensor  # [O]

    def where(self, better: Tensor, other: _State) -> _State:
        """This state for the channels that are `better` [O], the other for the rest."""
        if bool(better.all()):
            return self
        chosen = {}
        for name, mine in vars(self).items():
            where = better if name in ("factor", "loss") else better[:, None]
            chosen[name] = torch.where(where, mine, getattr(other, name))
        return _State(**chosen)


@dataclass(frozen=True)
class ChannelwiseProblem:
    """A rule as the solver sees it, in float64: minimise over the unknowns b [O, n], channel by
    channel,

        loss(b) + collateral_weight * price * |b|^2

    `loss` is the mean of |V* - f| (rounded at its kinks over a width of `width`) as a share of the
    same before the edit, and for a layer that is linear from key to value the mean square instead,
    as in Eqn. 6 to 15 of the paper.

    Attributes
    ----------
    function
        f(K*; W0 + A D), its unknowns in the metric of C.
    value
        V*, [J, O, P].
    asked
        mean |V* - f(K*; W0)|.
    price
        The predicted mean square change of the values over all keys, of |b|^2 = 1 and as a share of
        asked^2.
    root
        The Cholesky factor of D C D^T for every tap, [n, n]: b = a root.
    taps
        [s, kh, kw].
    weight, second_moment
        W0 [1, out, in, kh, kw] and C [in, in].
    squares
        Of the function's design, the same for all channels.
    """

    function: ChannelwiseFunction
    value: Tensor
    asked: float
    price: float
    root: Tensor
    taps: tuple[int, ...]
    weight: Tensor
    second_moment: Tensor
    squares: WeightedSquares

    @cached_property
    def energy(self) -> float:
        """tr(W C W^T), unscaled: what collateral is a share of. Raises `NumericalError` where it is
        zero.
        """
        found = energy(self.weight, self.second_moment)
        if not found:
            raise NumericalError(
                "The weights of the layer are zero, and collateral is a share of what they give: "
                "there is none.",
                "Give solver.collateral_weight instead of solver.collateral, and leave --pareto out.",
            )
        return found

    @cached_property
    def singular(self) -> tuple[Tensor, Tensor, Tensor]:
        """The singular vectors and values of the design of all images, [J * P, n], [n] and [n, n]."""
        left, values, right = torch.linalg.svd(
            self.function.design.flatten(0, 1), full_matrices=False
        )
        return left, values, right

    @property
    def count(self) -> int:
        """Values of each channel."""
        return len(self.value) * self.value.shape[2]

    @property
    def linear(self) -> bool:
        """Whether the values are linear in the weight."""
        return self.function.energy is None and self.function.slope == 1.0

    @property
    def width(self) -> float:
        """The width over which kinks are rounded."""
        return max(ROUNDING * self.asked, 1e-100)

    def nothing(self) -> Tensor:
        """The unknowns of no change, [O, n]."""
        return self.value.new_zeros(self.value.shape[1], len(self.root))

    def channels(self, chosen: Tensor) -> ChannelwiseProblem:
        """The problem of the output channels `chosen` alone."""
        function = self.function
        names = ("response", "offset", "energy", "cross", "multiplier")
        per_channel = {name: getattr(function, name) for name in names}
        function = dataclasses.replace(
            function, **{n: t[:, chosen] for n, t in per_channel.items() if t is not None}
        )
        return dataclasses.replace(self, function=function, value=self.value[:, chosen])

    def objective(self, unknowns: Tensor, collateral_weight: float) -> Tensor:
        """The objective of each channel, [O]."""
        return self.at(unknowns).loss + collateral_weight * self.price * unknowns.square().sum(1)

    def coefficients(self, unknowns: Tensor) -> Tensor:
        """The unknowns as A, [1, out, s, kh, kw]. Raises `NumericalError` where they are not
        finite.
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
        """The unknowns as a point of the curve."""
        loss, collateral = (
            self.at(unknowns).loss.mean().item(),
            unknowns.square().sum().item() / self.energy,
        )
        return Point(collateral_weight, loss, collateral, self.coefficients(unknowns))

    def at(self, unknowns: Tensor) -> _State:
        """Where the problem stands at these unknowns."""
        function, width = self.function, self.width
        answer, (factor, pull) = function.answer(unknowns), function.demodulation(unknowns)
        whole = torch.addcmul(function.offset, answer, factor[..., None])
        mean, bend = (
            function.gain * (1 + function.slope) / 2,
            function.gain * (1 - function.slope) / 2,
        )
        # Roots and divisions take far longer than the rest: one for each kink.
        square = whole.square().add_(width**2)
        near = square.rsqrt()
        value = (mean * whole).add_(square.mul_(near), alpha=bend)
        slope = (whole * near).mul_(bend).add_(mean)
        if function.clamp is not None:
            inside = value.abs() <= function.clamp
            value, slope, near = (
                value.clamp(-function.clamp, function.clamp),
                slope * inside,
                near * inside,
            )
        residual = value - self.value
        square = residual.square().add_(width**2)
        weight = square.rsqrt()
        if self.linear:
            loss = residual.square().mean((0, 2)) / self.asked**2
        else:
            loss = (square.mul_(weight).mean((0, 2)) - width) / self.asked
        return _State(unknowns, answer, pull, factor, slope, near, residual, weight, loss)

    def gradient(self, state: _State) -> Tensor:
        """The gradient of each channel's loss, [O, n]."""
        _, push = self._forces(state)
        shrinking = state.factor.square() * (push * state.answer).sum(-1)
        return (push @ self.function.design - shrinking[..., None] * state.pull).sum(0)

    def _forces(self, state: _State) -> tuple[Tensor, Tensor]:
        """The loss's derivative by each value, times `asked` and `count`; that by each answer, as
        it is.
        """
        force = state.residual * (2 / self.asked if self.linear else state.weight)
        return force, (force * state.slope).mul_(
            state.factor[..., None] / (self.asked * self.count)
        )

    def quadratic(self, state: _State, newton: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [O, n] and curvature [O, n, n] of each channel's loss.

        The curvature is that of the reweighted least squares, which lies above the loss, with the
        demodulation factor linearised: positive semidefinite. For the channels in `newton` [O] it
        is the loss's own, which need not be.
        """
        design, (force, push) = self.function.design, self._forces(state)
        pushed, bent = push @ design, (push * state.answer).sum(-1, keepdim=True)
        shrinking = state.factor.square()[..., None]
        gradient = (pushed - shrinking * bent * state.pull).sum(0)
        weight = state.slope.square().mul_(state.weight)
        if bool(newton.any()):
            bend = self.function.gain * (1 - self.function.slope) / 2
            own = weight * (self.width * state.weight).square_() + force * (state.near**3).mul_(
                bend * self.width**2
            )
            weight = torch.where(newton[:, None], own, weight)
        weight *= shrinking / (self.asked * self.count)
        curvature = self.squares.weigh(weight)
        weight *= state.answer
        pulled = shrinking * (weight @ design)
        energy = shrinking.square() * (weight * state.answer).sum(-1, keepdim=True)
        if self.function.gram is not None:
            # The second derivative of the demodulated answer, which the linearised factor leaves
            # out.
            shares = newton[:, None] * shrinking
            pulled = pulled + shares * pushed
            energy = energy + 3 * shares * shrinking * bent
            for share, gram in zip(shares * bent, self.function.gram, strict=True):
                curvature -= share[:, None] * gram
        # energy pull pull^T - pulled pull^T - pull pulled^T, summed over the images, as one
        # product.
        left, right = (
            torch.cat([energy * state.pull - pulled, -state.pull]),
            torch.cat([state.pull, pulled]),
        )
        return gradient, curvature.baddbmm_(left.movedim(0, -1), right.movedim(0, 1))


def minimise(problem: ChannelwiseProblem, collateral_weight: float, start: Tensor) -> Tensor:
    """The unknowns [O, n] of least objective, from `start`.

    Damped steps on the curvature of the reweighted least squares, then on the loss's own: each
    channel has its own damping, never gets worse, and leaves when it is done. Without
    collateral_weight what the rule does not determine stays as in `start`: from nothing, the answer
    has the least collateral of all that fit as well.

    Raises `NumericalError` where `STEPS` steps are not enough: without any collateral_weight there
    may be no minimum, for demodulation makes a change that grows for ever ever better.
    """
    if problem.linear:
        return _linear(problem, collateral_weight)
    unknowns, active = start.clone(), torch.arange(len(start), device=start.device)
    part, price = problem, collateral_weight * problem.price
    state = part.at(start)
    damping, size = start.new_full((len(start),), 1e-3), start.new_zeros(len(start))
    newton = torch.zeros_like(size, dtype=torch.bool)
    enough = TOLERANCE * part.objective(start, collateral_weight).mean()
    for _ in range(STEPS):
        objective = state.loss + price * state.unknowns.square().sum(1)
        gradient, curvature = part.quadratic(state, newton)
        gradient = gradient + 2 * price * state.unknowns
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        size = torch.where(newton, size, diagonal.mean(1))
        diagonal += (2 * price + damping * size)[:, None] + torch.finfo(diagonal.dtype).tiny
        root, failed = torch.linalg.cholesky_ex(curvature)
        sound = failed == 0
        if not bool(sound.all()):
            root = torch.where(sound[:, None, None], root, torch.eye(root.shape[-1]).to(root))
        step = -torch.cholesky_solve(gradient[..., None], root)[..., 0] * sound[:, None]
        promise = torch.where(sound, -(gradient * step).sum(1), math.inf)
        trial = part.at(state.unknowns + step)
        gained = objective - trial.loss - price * trial.unknowns.square().sum(1)
        better, true = gained > 0, 2 * gained / promise
        state = trial.where(better, state)
        newton = newton | (better & (promise < NEWTON * objective))
        damping = damping * torch.where(true > 0.75, 0.2, torch.where(true < 0.25, 10.0, 1.0))
        damping = torch.where(sound, damping, damping.clamp_min(1e-3)).clamp(1e-6, 1e6)
        going = promise > enough
        if not bool(going.any()):
            unknowns[active] = state.unknowns
            return unknowns
        if int(going.sum()) <= 0.7 * len(active):
            unknowns[active] = state.unknowns
            kept = going.nonzero()[:, 0]
            active, part = active[kept], part.channels(kept)
            damping, size, newton = damping[kept], size[kept], newton[kept]
            state = part.at(state.unknowns[kept])
    unknowns[active] = state.unknowns
    if float(promise.sum()) > GOOD_ENOUGH * float(
        problem.objective(unknowns, collateral_weight).sum()
    ):
        raise NumericalError(
            f"Least squares has not converged after {STEPS} steps.",
            "Raise solver.collateral_weight, or lower the rank.",
        )
    return unknowns


def _linear(problem: ChannelwiseProblem, collateral_weight: float) -> Tensor:
    """The minimum for a layer that is linear from key to value: a ridge regression.

    One design serves all channels, scaled. It is taken apart as it is: its products with itself
    would square its condition, and at price zero the answer would lose half of its digits.
    """
    left, shared, right = problem.singular
    nothing = problem.at(problem.nothing())
    scale = (problem.asked**2 * problem.count) ** 0.5
    gain = problem.function.gain * nothing.factor[0, :, None] / scale
    wanted = -nothing.residual.transpose(0, 1).flatten(1) @ left / scale
    values, price = gain * shared, collateral_weight * problem.price
    # What no key of the rule sees has no price to weigh: the answer of least norm leaves it alone.
    rounding = max(problem.function.design.flatten(0, 1).shape) * torch.finfo(values.dtype).eps
    seen = (shared > shared[:1] * rounding) & (values != 0)
    shares = torch.where(seen, values / (values.square() + price), 0)
    unknowns: Tensor = (shares * wanted) @ right
    return unknowns


def trace_curve(problem: ChannelwiseProblem, progress: StepCallback = ignore_steps) -> list[Point]:
    """The whole trade of loss against collateral: as collateral_weight falls, loss falls and
    collateral rises.

    Each point starts from what one factorisation, that of the point before, gives for its
    collateral_weight.
    """
    unknowns, found = problem.nothing(), []
    for done, collateral_weight in enumerate(CURVE):
        progress(done, len(CURVE))
        unknowns = minimise(
            problem, collateral_weight, extrapolate(problem, unknowns, collateral_weight)
        )
        found.append(unknowns)
    return [
        problem.point(_best_of(problem, found, collateral_weight), collateral_weight)
        for collateral_weight in CURVE
    ]


def extrapolate(problem: ChannelwiseProblem, unknowns: Tensor, collateral_weight: float) -> Tensor:
    """The unknowns that another collateral_weight would give if the curvature stayed as it is at
    `unknowns`.
    """
    gradient, curvature = problem.quadratic(
        problem.at(unknowns), unknowns.new_zeros(len(unknowns), dtype=torch.bool)
    )
    values, vectors = torch.linalg.eigh(curvature)
    wanted = (curvature @ unknowns[..., None])[..., 0] - gradient
    rotated = (wanted[:, None] @ vectors)[:, 0] / (
        values.clamp_min(0) + 2 * collateral_weight * problem.price
    )
    answer: Tensor = (vectors @ rotated[..., None])[..., 0]
    return answer


def _best_of(
    problem: ChannelwiseProblem, candidates: list[Tensor], collateral_weight: float
) -> Tensor:
    """Channel by channel the best of some candidates: so a curve is monotone, whatever minimum each
    ended in.
    """
    objectives = torch.stack(
        [problem.objective(unknowns, collateral_weight) for unknowns in candidates]
    )
    return torch.stack(candidates)[
        objectives.argmin(0), torch.arange(objectives.shape[1], device=objectives.device)
    ]


def minimise_within(problem: ChannelwiseProblem, budget: float) -> Point:
    """The point of the least collateral weight, from the last of `CURVE` on, that keeps a budget.

    Its collateral is at most `budget`, a share of tr(W C W^T) as collateral is.
    """
    lowest, highest = CURVE[-1], CURVE[0]
    unknowns = minimise(problem, lowest, problem.nothing())
    if (best := problem.point(unknowns, lowest)).collateral <= budget:
        return best
    while (
        best := problem.point(minimise(problem, highest, problem.nothing()), highest)
    ).collateral > budget:
        lowest, highest = highest, 10 * highest
    for _ in range(BISECTIONS):
        middle = math.sqrt(lowest * highest)
        unknowns = minimise(problem, middle, unknowns)
        if (point := problem.point(unknowns, middle)).collateral <= budget:
            best, highest = point, middle
        else:
            lowest = middle
    return best


def in_the_metric(function: ChannelwiseFunction, root: Tensor) -> ChannelwiseFunction:
    """The function of the unknowns b = a root in place of a."""

    def whiten(rows: Tensor) -> Tensor:
        whitened: Tensor = torch.linalg.solve_triangular(root, rows.mT, upper=False).mT
        return whitened

    gram = None if function.gram is None else whiten(whiten(function.gram).mT)
    cross = None if function.cross is None else whiten(function.cross)
    return dataclasses.replace(function, design=whiten(function.design), cross=cross, gram=gram)
