"""Least squares that goes on where its steps do not converge: curves, budgets, larger weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.maths.channelwise_descent import NotConverged, minimise
from editspec_runtime.maths.channelwise_least_squares import CURVE, ChannelwiseProblem, Point

BISECTIONS = 14
"""The number of bisections of log collateral_weight in the search for a budget."""
CLIMB, CLIMBS = 10.0, 8
"""The factor between two weights of the collateral on the way up, and how many are tried."""
DESCENT = 10**0.25
"""The factor between two weights of the collateral on the way down."""


@dataclass(frozen=True)
class Reached:
    """The unknowns [O, n] that least squares found, and the weight that they are least for."""

    unknowns: Tensor
    collateral_weight: float


def minimise_from_above(problem: ChannelwiseProblem, collateral_weight: float) -> Reached:
    """Find the unknowns of least objective, at a larger weight where there are none at this one.

    The steps may not converge at a small weight, as the objective is nearly flat or has no
    minimum. A larger weight makes it steeper. From its solution the weight falls again,
    step by step, to the weight that is asked for or to the last one that converges.

    Raises `NotConverged` if no weight converges that is up to ``CLIMB**CLIMBS`` times as large.
    """
    try:
        start = problem.start(collateral_weight)
        return Reached(minimise(problem, collateral_weight, start), collateral_weight)
    except NotConverged:
        reached = _climb(problem, collateral_weight)
    for weight in _fall(reached.collateral_weight, collateral_weight):
        try:
            reached = Reached(minimise(problem, weight, reached.unknowns), weight)
        except NotConverged:
            break
    return reached


def _climb(problem: ChannelwiseProblem, collateral_weight: float) -> Reached:
    """Find the first weight above this one at which the steps converge."""
    weight = max(collateral_weight, CURVE[-1])
    for _ in range(CLIMBS):
        try:
            return Reached(minimise(problem, weight, problem.start(weight)), weight)
        except NotConverged:
            weight *= CLIMB
    return Reached(minimise(problem, weight, problem.start(weight)), weight)


def _fall(highest: float, lowest: float) -> Iterator[float]:
    """Yield the weights between two, falling, and the lowest one itself."""
    weight = highest / DESCENT
    while weight > max(lowest, CURVE[-1]):
        yield weight
        weight /= DESCENT
    if lowest < highest:
        yield lowest


def trace_curve(problem: ChannelwiseProblem, progress: StepCallback = ignore_steps) -> list[Point]:
    """Compute the curve of loss against collateral, a point for each of `CURVE`.

    Each point is the solution that a build with its collateral_weight has.
    """
    points = []
    for done, collateral_weight in enumerate(CURVE):
        progress(done, len(CURVE))
        reached = minimise_from_above(problem, collateral_weight)
        points.append(problem.point(reached.unknowns, collateral_weight))
    return points


def minimise_within(problem: ChannelwiseProblem, budget: float) -> Point:
    """Find the point of the least collateral weight that keeps a budget.

    The weight is not below the last of `CURVE`. The collateral of the point is at most `budget`,
    which is a share of tr(W C W^T). A weight at which the steps do not converge counts as one that
    breaks the budget.

    Raises `NotConverged` if no weight converges that is up to ``CLIMB**CLIMBS`` times the first of
    `CURVE`.
    """

    def keep(weight: float, start: Tensor) -> tuple[Tensor, Point | None]:
        """Find the unknowns of a weight, and their point where it keeps the budget."""
        try:
            unknowns = minimise(problem, weight, start)
        except NotConverged:
            if weight > CURVE[0] * CLIMB**CLIMBS:
                raise
            return start, None
        point = problem.point(unknowns, weight)
        return unknowns, point if point.collateral <= budget else None

    lowest, highest = CURVE[-1], CURVE[0]
    unknowns, best = keep(lowest, problem.start(lowest))
    if best is not None:
        return best
    unknowns, best = keep(highest, problem.start(highest))
    while best is None:
        lowest, highest = highest, CLIMB * highest
        unknowns, best = keep(highest, problem.start(highest))
    # The weight is between `lowest`, which breaks the budget, and `highest`, which keeps it.
    for _ in range(BISECTIONS):
        middle = math.sqrt(lowest * highest)
        unknowns, point = keep(middle, unknowns)
        if point is not None:
            best, highest = point, middle
        else:
            lowest = middle
    return best
