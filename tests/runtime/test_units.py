from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.maths.directions import directions, mean_direction, svd_directions
from editspec_runtime.maths.ranking import energy_ranking, one_hot, quantile_ranking
from tests.cases import draw_normal


def moment(size: int = 12) -> Tensor:
    keys = draw_normal(400, size) @ draw_normal(size, size, seed=1)
    return keys.T @ keys / len(keys)


def test_the_units_that_stand_out_come_first() -> None:
    usual = torch.diag(torch.tensor([1.0, 100.0, 1.0, 4.0], dtype=torch.float64))
    keys = torch.tensor([[2.0, 9.0, 0.1, 5.0], [0.0, 0.0, 9.0, 0.0]])
    # Against their mean squares, not by themselves: unit 1 responds most and stands out least but
    # one.
    assert energy_ranking(usual, keys, torch.tensor([1.0, 0.0])) == [3, 0, 1, 2]
    # The weights decide whose responses count.
    assert energy_ranking(usual, keys, torch.tensor([0.0, 1.0]))[0] == 2


def test_a_unit_that_never_fires_comes_last() -> None:
    usual = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert energy_ranking(usual, torch.tensor([[0.0, 0.1]]), torch.ones(1)) == [1, 0]


def test_rare_responses_come_first() -> None:
    sample = torch.stack([torch.arange(1000.0), torch.arange(1000.0) / 1000], 1)
    keys, weights = torch.tensor([[500.0, 0.99]]), torch.ones(1)
    assert quantile_ranking(sample, keys, weights) == [1, 0]
    assert quantile_ranking(sample, torch.tensor([[990.0, 0.5]]), weights) == [0, 1]
    # A response beyond everything in the sample is rare, not infinitely so.
    assert quantile_ranking(sample, torch.tensor([[1e9, 1e9]]), weights) == [0, 1]


def test_directions_of_units_are_the_units() -> None:
    assert one_hot([2, 0], 4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert one_hot([], 4).shape == (0, 4)


def test_one_key_gives_the_same_direction_by_every_method() -> None:
    c, key, weight = moment(), draw_normal(1, 12, seed=9), torch.tensor([0.3])
    zca = directions("zca", c, key, weight, 1, lambda: key)
    torch.testing.assert_close(directions("mean", c, key, weight, 1, lambda: key), zca)
    torch.testing.assert_close(directions("svd", c, key, weight, 1, lambda: key), zca)
    units = directions("units", c, key, weight, 1, lambda: c.sort(0).values)
    assert units.sum() == units.max() == 1
    assert not torch.allclose(units, zca)


def test_the_mean_direction_answers_the_mean_key() -> None:
    c, keys, weights = moment(), draw_normal(5, 12, seed=3), torch.tensor([1.0, 2, 3, 4, 5])
    wanted = torch.linalg.solve(c, (weights.double()[:, None] * keys).sum(0))
    found = mean_direction(c, keys, weights)
    torch.testing.assert_close(found[0], wanted / wanted.norm())
    assert not torch.allclose(mean_direction(c, keys, torch.ones(5)), found)


def test_the_svd_directions_are_orthonormal_and_nested() -> None:
    c, keys, weights = moment(), draw_normal(20, 12, seed=5) + 1, torch.ones(20)
    found = svd_directions(c, keys, weights, 3)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(svd_directions(c, keys, weights, 4)[:3], found)
