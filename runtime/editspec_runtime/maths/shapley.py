"""Shapley's shares: how much each of several players brings to what all of them do together.

A player's part is what the coalition gains when the player joins, in the mean over all orders in
which the players can join (Shapley 1953). It is the only division whose parts add up to the whole,
that gives equal players equal parts and idle ones none, and that is linear in what is divided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_EXACT = 8
"""The largest number of players whose 2^n coalitions are all valued."""
PAIRS = 32
"""The number of sampled orders, each with its reverse: together their means vary less."""

Coalition = tuple[int, ...]
"""The numbers of the players of a coalition, ascending."""

Value = Callable[[Coalition], Tensor]
"""Gives the value of a coalition, [m] float64."""


@dataclass(frozen=True)
class Attribution:
    """What all players do together, divided among them.

    Attributes
    ----------
    parts
        The part of each player, [n, m] float64. Their sum is `whole` but for rounding.
    whole
        The value of all players minus that of none, [m].
    errors
        The standard error of each share, [n]; 0 where all orders are counted.
    orders
        The number of sampled orders; None where all are counted.
    """

    parts: Tensor
    whole: Tensor
    errors: Tensor
    orders: int | None = None

    @property
    def shares(self) -> Tensor:
        """The share of each player in the whole, [n]: `measure_along` of its part.

        The shares add up to 1. A player that works against the others has a negative one.
        """
        return measure_along(self.parts, self.whole)


def measure_along(change: Tensor, whole: Tensor) -> Tensor:
    """Compute how much of a whole change [m] changes [..., m] are.

    That is <change, whole> / <whole, whole>: 1 for the whole itself, and linear, so that it divides
    as the changes do.
    """
    return change @ whole / whole.square().sum()


def attribute(count: int, value: Value, seed: int) -> Attribution:
    """Divide among `count` players what all of them do together.

    All orders are counted for up to `MOST_EXACT` players; above, they are sampled by `seed`.
    """
    if count <= MOST_EXACT:
        return attribute_exactly(count, value)
    return attribute_by_sampling(count, value, seed)


def attribute_exactly(count: int, value: Value) -> Attribution:
    """Divide by the values of all 2^n coalitions of n players."""
    players = range(count)
    nothing = value(())
    parts = nothing.new_zeros(count, len(nothing))
    smaller: dict[Coalition, Tensor] = {(): nothing}
    for size in players:
        larger = {each: value(each) for each in itertools.combinations(players, size + 1)}
        # The share of all orders in which these come first and the player follows them.
        share = 1 / (count * math.comb(count - 1, size))
        for coalition, reached in larger.items():
            for place, player in enumerate(coalition):
                others = coalition[:place] + coalition[place + 1 :]
                parts[player] += share * (reached - smaller[others])
        smaller = larger
    whole = smaller[tuple(players)] - nothing
    return Attribution(parts, whole, whole.new_zeros(count))


def attribute_by_sampling(count: int, value: Value, seed: int, pairs: int = PAIRS) -> Attribution:
    """Divide by the values of the coalitions in sampled orders and their reverses.

    The parts add up to the whole in every order, and so in their mean.
    """
    everyone = tuple(range(count))
    nothing, everything = value(()), value(everyone)
    whole = everything - nothing
    parts = whole.new_zeros(count, len(whole))
    shares = whole.new_zeros(pairs, count)
    random = torch.Generator().manual_seed(seed)
    for pair in range(pairs):
        order = torch.randperm(count, generator=random).tolist()
        for direction in (order, order[::-1]):
            before = nothing
            for player, coalition in _join(direction):
                after = everything if coalition == everyone else value(coalition)
                gained = after - before
                parts[player] += gained / (2 * pairs)
                shares[pair, player] += measure_along(gained, whole) / 2
                before = after
    errors = shares.std(0) / math.sqrt(pairs)
    return Attribution(parts, whole, errors, 2 * pairs)


def _join(order: list[int]) -> Iterator[tuple[int, Coalition]]:
    """Yield each player of an order, and the coalition that it completes."""
    for place, player in enumerate(order):
        yield player, tuple(sorted(order[: place + 1]))
