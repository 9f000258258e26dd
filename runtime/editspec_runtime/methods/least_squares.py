"""Least squares: the coefficients A from the structure of the layer's function, in tens of small
steps.

Each output channel is a problem of its own, on s * kh * kw unknowns, and all of them are solved at
once. The unknowns are measured in the metric of the second moment, so that the predicted collateral
tr(dW C dW^T) (paper Eqn. 4 to 6 and 12, the taps of a kernel taken as independent) is their sum of
squares.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec_runtime.core.rule import Rule
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.moments import Progress
from editspec_runtime.methods.solvers import NOTHING_TO_DO
from editspec_runtime.modalities.image.generator import ChannelwiseFunction, LayerFunction

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
BLOCK = 2**22
"""Numbers in a block of products of the design: bounds the memory, changes nothing else."""
BISECTIONS = 14
"""Halvings of the collateral_weight, as a logarithm, in the search for a budget's."""
CURVE = tuple(10 ** (exponent / 4) for exponent in range(4, -13, -1))
"""The collateral_weightes of a curve, falling."""


@dataclass(frozen=True)
class Point:
    """What one collateral_weight gives.

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
    near: Tensor  # [J, O, P], one over that answer, rounded at the activation's kink; 0 where it is clamped
    residual: Tensor  # [J, O, P]
    weight: Tensor  # [J, O, P], one over the residual, rounded at its kink: that of the reweighted least squares
    loss: Tensor  # [O]

    def where(self, better: Tensor, other: _State) -> _State:
        """This state for the channels that are `better` [O], the other for the rest."""
        if bool(better.all()):
            return self
        flat = ("factor", "loss")
        return _State(
            **{
                name: torch.where(
                    better if name in flat else better[:, None], mine, getattr(other, name)
                )
                for name, mine in vars(self).items()
            }
        )


@dataclass(frozen=True)
class Squares:
    """design^T diag(w) design for many weightings w of the positions: its products are made once,
    where they are few.

    Attributes
    ----------
    design
        [J, P, n].
    """

    design: Tensor

    def weighted(self, weight: Tensor) -> Tensor:
        """The products [O, n, n] of weights [J, O, P], summed over the images."""
        count = self.design.shape[2]
        rows, columns = self.triangle
        total = weight.new_zeros(weight.shape[1], len(rows))
        for part, pairs in zip(torch.split(weight, self.block, 2), self.pairs(), strict=True):
            total += (part @ pairs).sum(0)
        whole = weight.new_empty(len(total), count**2)
        for places in (rows * count + columns, columns * count + rows):
            whole.index_copy_(1, places, total)
        return whole.view(-1, count, count)

    def pairs(self) -> Iterable[Tensor]:
        """The products of every two columns of the design, [J, p, n * (n + 1) / 2] for blocks of p
        positions.
        """
        rows, columns = self.triangle
        blocks = torch.split(self.design, self.block, 1)
        return (
            self.kept_pairs
            if len(blocks) == 1
            else (seen[..., rows] * seen[..., columns] for seen in blocks)
        )

    @cached_property
    def kept_pairs(self) -> tuple[Tensor, ...]:
        """The same, where they are one block."""
        rows, columns = self.triangle
        return (self.design[..., rows] * self.design[..., columns],)

    @cached_property
    def triangle(self) -> Tensor:
        """Rows and columns on and above the diagonal of a matrix [n, n]."""
        return torch.triu_indices(
            self.design.shape[2], self.design.shape[2], device=self.design.device
        )

    @property
    def block(self) -> int:
        """Positions in a block."""
        return max(1, BLOCK // self.triangle.shape[1])


@dataclass(frozen=True)
class Problem:
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
    squares: Squares

    @staticmethod
    def of(
        function: LayerFunction,
        weight: Tensor,
        rule: Rule,
        directions: Tensor,
        second_moment: Tensor,
    ) -> Problem:
        """The problem of a rule. Raises `NumericalError` where it has none."""
        weight, directions = weight.double(), directions.double()
        second_moment = second_moment.to(weight)
        arguments = {name: tensor.double() for name, tensor in rule.arguments.items()}
        channelwise = function.channelwise(
            rule.key.double(), weight, directions, arguments, haloed=True
        )
        if channelwise is None:
            raise NumericalError(
                f"The function of {rule.layer} is not known to act on each output channel alone in a {rule.family}, so "
                "that the rule is no least-squares problem.",
                "Use solver: projected-gradient.",
            )
        taps = (len(directions), *weight.shape[-2:])
        moment, failed = torch.linalg.cholesky_ex(directions @ second_moment @ directions.T)
        if bool(failed) or not bool(moment.isfinite().all()):
            raise NumericalError(
                "The second moment of the keys is singular in the directions of the context.",
                "Raise statistics.samples, or lower the rank.",
            )
        root = torch.kron(moment.contiguous(), torch.eye(taps[1] * taps[2]).to(moment))
        value = rule.value.double().flatten(2)
        nothing = value.new_zeros(value.shape[1], len(root))
        asked = (value - channelwise(nothing)).abs().mean().item()
        if not math.isfinite(asked):
            raise NumericalError(f"The loss is {asked} after 0 steps.", "Use precision: float64.")
        scale = (
            channelwise.scale
            * channelwise.gain
            * channelwise.demodulation(nothing)[0].square().mean().sqrt().item()
        )
        channelwise = _in_the_metric(channelwise, root)
        return Problem(
            function=channelwise,
            value=value,
            asked=asked,
            price=scale**2 / asked**2 if asked else 0.0,
            root=root,
            taps=taps,
            weight=weight,
            second_moment=second_moment,
            squares=Squares(channelwise.design),
        )

    @cached_property
    def energy(self) -> float:
        """tr(W C W^T), unscaled: what collateral is a share of. Raises `NumericalError` where it is
        zero.
        """
        rows = self.weight.reshape(self.weight.shape[-4:]).movedim(1, -1).flatten(0, -2)
        energy = ((rows @ self.second_moment) * rows).sum().item()
        if not energy:
            raise NumericalError(
                "The weights of the layer are zero, and collateral is a share of what they give: there is none.",
                "Give solver.collateral_weight instead of solver.collateral, and leave --pareto out.",
            )
        return energy

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

    def channels(self, chosen: Tensor) -> Problem:
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
        curvature = self.squares.weighted(weight)
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


def minimise(problem: Problem, collateral_weight: float, start: Tensor) -> Tensor:
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


def _linear(problem: Problem, collateral_weight: float) -> Tensor:
    """The minimum for a layer that is linear from key to value: the same small matrix for all
    channels, scaled.
    """
    nothing = problem.at(problem.nothing())
    scale = problem.asked**2 * problem.count
    design, gain, multiplier = (
        problem.function.design,
        problem.function.gain,
        nothing.factor[0, :, None],
    )
    values, vectors = torch.linalg.eigh(gain**2 * (design.mT @ design).sum(0) / scale)
    pull = -gain * multiplier * (nothing.residual @ design).sum(0) / scale
    values, price = multiplier.square() * values, collateral_weight * problem.price
    # What no key of the rule sees has no price to weigh: the answer of least norm leaves it alone.
    seen = values + price > values[:, -1:] * len(vectors) * torch.finfo(values.dtype).eps
    unknowns: Tensor = ((pull @ vectors) * torch.where(seen, 1 / (values + price), 0)) @ vectors.T
    return unknowns


def curve(problem: Problem, progress: Progress = lambda done, total: None) -> list[Point]:
    """The whole trade of loss against collateral: as collateral_weight falls, loss falls and
    collateral rises.

    Each point starts from what one factorisation, that of the point before, gives for its
    collateral_weight.
    """
    unknowns, found = problem.nothing(), []
    for done, collateral_weight in enumerate(CURVE):
        progress(done, len(CURVE))
        unknowns = minimise(
            problem, collateral_weight, foreseen(problem, unknowns, collateral_weight)
        )
        found.append(unknowns)
    return [
        problem.point(_best_of(problem, found, collateral_weight), collateral_weight)
        for collateral_weight in CURVE
    ]


def foreseen(problem: Problem, unknowns: Tensor, collateral_weight: float) -> Tensor:
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


def _best_of(problem: Problem, candidates: list[Tensor], collateral_weight: float) -> Tensor:
    """Channel by channel the best of some candidates: so a curve is monotone, whatever minimum each
    ended in.
    """
    objectives = torch.stack(
        [problem.objective(unknowns, collateral_weight) for unknowns in candidates]
    )
    return torch.stack(candidates)[
        objectives.argmin(0), torch.arange(objectives.shape[1], device=objectives.device)
    ]


def within(problem: Problem, budget: float) -> Point:
    """The least collateral_weight, of those from the last of `CURVE` on, whose collateral is at
    most `budget`: its point.

    `budget` is a share of tr(W C W^T), as collateral is.
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


@torch.no_grad()
def least_squares(
    function: LayerFunction, weight: Tensor, rule: Rule, directions: Tensor, second_moment: Tensor
) -> Tensor:
    """A [1, out, s, kh, kw] of a rule, at its ``collateral_weight`` or within its budget of
    ``collateral``.

    Parameters are those of `editspec_runtime.methods.solvers.solve`, and C, [in, in].

    Raises
    ------
    NumericalError
        The layer's function has no such form, C is singular in the directions, or the steps do not
        converge.
    """
    problem, settings = Problem.of(function, weight, rule, directions, second_moment), rule.solver
    if problem.asked <= NOTHING_TO_DO:
        return weight.new_zeros(1, len(problem.nothing()), *problem.taps)
    if settings.collateral is not None:
        return within(problem, settings.collateral).coefficients.to(weight)
    assert settings.collateral_weight is not None
    unknowns = minimise(problem, settings.collateral_weight, problem.nothing())
    return problem.coefficients(unknowns).to(weight)


def _in_the_metric(function: ChannelwiseFunction, root: Tensor) -> ChannelwiseFunction:
    """The same function of b = a root instead of a."""

    def turned(rows: Tensor) -> Tensor:
        whitened: Tensor = torch.linalg.solve_triangular(root, rows.mT, upper=False).mT
        return whitened

    gram = None if function.gram is None else turned(turned(function.gram).mT)
    cross = None if function.cross is None else turned(function.cross)
    return dataclasses.replace(function, design=turned(function.design), cross=cross, gram=gram)
