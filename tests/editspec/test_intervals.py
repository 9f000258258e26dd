"""Intervals by bootstrap: they cover, they shrink, and they follow from the seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from editspec.engine.intervals import Ratio, find_intervals, start_bootstrap


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hits(count: int, share: float, seed: int) -> Tensor:
    return (torch.rand(count, generator=seeded(seed)) < share).double()


def interval(values: Tensor, seed: int = 0, draws: int = 300) -> tuple[float, float]:
    return find_intervals({"mean": Ratio.mean(values)}, seeded(seed), draws)["mean"]


def test_nineteen_of_twenty_intervals_hold_the_true_share() -> None:
    covered = 0
    for trial in range(100):
        low, high = interval(hits(200, 0.3, trial), seed=trial)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100
    # Negative control: they do not hold another share.
    missed = 0
    for trial in range(20):
        low, high = interval(hits(200, 0.3, trial), seed=trial)
        missed += not low <= 0.5 <= high
    assert missed == 20


def test_four_times_the_items_halve_the_width() -> None:
    widths = []
    for count in (250, 1000, 4000):
        low, high = interval(hits(count, 0.5, 1))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)
    # As the normal approximation has it.
    assert widths[1] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1000), rel=0.15)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = torch.randn(60, generator=seeded(5)).double()
    before = torch.random.get_rng_state()
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)
    first, second = (find_intervals({"m": Ratio.mean(values)}, start_bootstrap()) for _ in "ab")
    assert first == second
    # The global generator is not touched.
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("count", [8, 64, 2000])
def test_what_no_item_has_may_be_in_others(count: int) -> None:
    low, high = interval(torch.zeros(count))
    assert low == 0
    # Were it any more frequent, it would be missing in all items in 2.5 % of the samples.
    assert (1 - high) ** count == pytest.approx(0.025)
    low, same = interval(torch.ones(count))
    assert (same, 1 - low) == (1, pytest.approx(high))
    # Items that are alike in another way have no such interval.
    assert interval(torch.full((count,), 0.3)) == pytest.approx((0.3, 0.3))


def test_items_of_a_ratio_are_drawn_together() -> None:
    whole = torch.rand(50, generator=seeded(0)).double() + 0.1
    ratios = {"half": Ratio(whole / 2, whole), "none": Ratio(whole, torch.zeros(50))}
    assert ratios["half"].value == pytest.approx(0.5)
    assert ratios["none"].value is None
    found = find_intervals(ratios, seeded(0))
    # Each item has the same ratio, so every draw has.
    assert found["half"] == pytest.approx((0.5, 0.5))
    assert list(found) == ["half"]


def test_items_that_do_not_count_do_not_matter() -> None:
    values = torch.tensor([1.0, 2.0, torch.nan, 3.0])
    counted = ~values.isnan()
    assert Ratio.mean(values, counted).value == 2
    low, high = find_intervals({"m": Ratio.mean(values, counted)}, seeded(0))["m"]
    assert 1 <= low <= 2 <= high <= 3
    # A single item that counts is missing in some draws, which have no ratio.
    single = Ratio.mean(values, torch.tensor([True, False, False, False]))
    assert find_intervals({"m": single}, seeded(0))["m"] == (pytest.approx(0.025), 1)
