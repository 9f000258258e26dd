"""Shapley's shares, against their axioms and against all orders written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from editspec_runtime.maths.shapley import (
    Coalition,
    attribute,
    attribute_by_sampling,
    attribute_exactly,
)


def game(count: int, seed: int = 0) -> dict[Coalition, Tensor]:
    """Random values of all coalitions, which depend on one another in no way."""
    random = torch.Generator().manual_seed(seed)
    values = {}
    for size in range(count + 1):
        for coalition in itertools.combinations(range(count), size):
            values[coalition] = torch.randn(3, generator=random).double()
    return values


def interacting(coalition: Coalition) -> Tensor:
    """A value in which player 2 does nothing, 0 and 1 do the same, and 3 acts only with 0 or 1."""
    twins = sum(player in coalition for player in (0, 1))
    rest = torch.tensor([len([each for each in coalition if each > 3]), 0.5, 1.0]).double()
    return torch.tensor([twins**2, 3 in coalition and twins, 1.0]).double() + rest


def test_parts_are_the_mean_over_all_orders() -> None:
    values = game(4)
    orders = list(itertools.permutations(range(4)))
    wanted = torch.zeros(4, 3).double()
    for order in orders:
        for place, player in enumerate(order):
            before, after = (tuple(sorted(order[: place + more])) for more in (0, 1))
            wanted[player] += (values[after] - values[before]) / len(orders)
    found = attribute_exactly(4, values.__getitem__)
    torch.testing.assert_close(found.parts, wanted)
    assert found.orders is None
    assert not found.errors.any()


@pytest.mark.parametrize("count", [1, 2, 5, 8, 11])
def test_shares_add_up_to_the_whole(count: int) -> None:
    calls: list[Coalition] = []

    def value(coalition: Coalition) -> Tensor:
        calls.append(coalition)
        assert list(coalition) == sorted(set(coalition))
        powers = torch.tensor([1.0, 2.0, 3.0]).double()
        return (1 + sum(1.5 * player + 1 for player in coalition)) ** powers

    found = attribute(count, value, seed=3)
    if count <= 8:
        assert len(set(calls)) == len(calls) == 2**count
    everyone = tuple(range(count))
    torch.testing.assert_close(found.whole, value(everyone) - value(()))
    torch.testing.assert_close(found.parts.sum(0), found.whole)
    assert found.shares.sum().item() == pytest.approx(1, abs=1e-12)
    assert (found.orders is None) == (count <= 8)
    assert bool(found.errors.any()) == (count > 8)


def test_idle_equal_and_opposed_players() -> None:
    for found in (
        attribute_exactly(5, interacting),
        attribute_by_sampling(5, interacting, seed=0, pairs=200),
    ):
        assert not found.parts[2].any()
        assert found.shares[2] == 0
        # Twins are equal: exactly, or as far as the samples are from the truth.
        slack = 1e-12 + 4 * float(found.errors[:2].sum())
        assert found.shares[0].item() == pytest.approx(found.shares[1].item(), abs=slack)
        assert found.shares[0] > found.shares[3] > 0

    def opposed(coalition: Coalition) -> Tensor:
        return torch.tensor([2.0 * (0 in coalition) - 1.0 * (1 in coalition)]).double()

    assert attribute_exactly(2, opposed).shares.tolist() == [2, -1]


def test_another_numbering_gives_the_same_shares() -> None:
    values = game(5, seed=2)
    renamed = [3, 0, 4, 1, 2]

    def other(coalition: Coalition) -> Tensor:
        return values[tuple(sorted(renamed[player] for player in coalition))]

    found, again = (attribute_exactly(5, each) for each in (values.__getitem__, other))
    torch.testing.assert_close(again.parts, found.parts[renamed])


def test_samples_agree_with_all_orders_within_their_error() -> None:
    values = game(6, seed=5)
    exact = attribute_exactly(6, values.__getitem__)
    off = []
    for seed in range(20):
        sampled = attribute_by_sampling(6, values.__getitem__, seed)
        assert sampled.orders == 64
        assert (sampled.errors > 0).all()
        off.append((sampled.shares - exact.shares) / sampled.errors)
    errors = torch.stack(off)
    # As many standard errors away as chance has it: neither far off, nor stated too wide.
    assert errors.abs().max() < 5
    assert 0.6 < errors.square().mean().sqrt() < 1.6
    one, again = (attribute_by_sampling(6, values.__getitem__, 7) for _ in range(2))
    assert torch.equal(one.parts, again.parts)
    assert not torch.equal(one.parts, attribute_by_sampling(6, values.__getitem__, 8).parts)
