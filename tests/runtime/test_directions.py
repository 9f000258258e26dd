from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.directions import (
    count_missing,
    inverse_root,
    root_and_inverse,
    zca_directions,
)
from tests.cases import draw_normal


def moment(size: int = 12, seed: int = 0) -> Tensor:
    keys = draw_normal(400, size, seed=seed) @ draw_normal(size, size, seed=seed + 1)
    return keys.T @ keys / len(keys)


def test_the_inverse_root_is_one() -> None:
    c = moment()
    z = inverse_root(c)
    torch.testing.assert_close(z @ c @ z, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(z, z.T)


@pytest.mark.parametrize("number", [4, 6, 7, 8])
def test_the_inverse_root_is_the_authors(golden: dict[str, dict[str, Tensor]], number: int) -> None:
    stages = golden["sg2_stages_f64"]
    found, wanted = inverse_root(stages[f"L{number}.C.batch10"]), stages[f"L{number}.zca"]
    assert (found - wanted).norm() / wanted.norm() < 1e-10


def test_one_key_gives_the_direction_of_equation_16() -> None:
    c, key = moment(), draw_normal(1, 12, seed=9)
    wanted = torch.linalg.solve(c, key[0])
    found = zca_directions(c, key, torch.tensor([0.3]), 1)[0]
    torch.testing.assert_close(found, wanted / wanted.norm())
    # Towards the key, not away from it; and not the key's own direction.
    assert found @ key[0] > 0
    assert abs(float(found @ key[0] / key.norm())) < 0.99


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rows_are_orthonormal_and_nested(rank: int) -> None:
    c, keys = moment(), draw_normal(20, 12, seed=5) + 1
    found = zca_directions(c, keys, torch.ones(20), rank)
    torch.testing.assert_close(found @ found.T, torch.eye(rank, dtype=torch.float64))
    larger = zca_directions(c, keys, torch.ones(20), min(rank + 1, 12))
    torch.testing.assert_close(found @ larger.T @ larger, found)


def test_no_other_span_holds_more_of_the_whitened_keys() -> None:
    c, keys, weights = (
        moment(),
        draw_normal(30, 12, seed=6) + 0.5,
        torch.rand(30, generator=torch.Generator().manual_seed(1)),
    )
    z = inverse_root(c)
    rows = weights.double()[:, None] * (keys @ z)

    def held(directions: Tensor) -> float:
        # The keys' span after whitening: Z^-1 takes D back to the whitened space.
        basis, _ = torch.linalg.qr(torch.linalg.solve(z, directions.T))
        return float((rows @ basis).square().sum())

    best = held(zca_directions(c, keys, weights, 2))
    assert all(held(draw_normal(2, 12, seed=seed)) < best for seed in range(100))
    # The negative control: forgetting the weights gives another span, and a worse one.
    assert held(zca_directions(c, keys, torch.ones(30), 2)) < best


def test_a_weight_of_almost_nothing_counts_for_nothing() -> None:
    c, keys = moment(), draw_normal(2, 12, seed=7)
    alone = zca_directions(c, keys[:1], torch.ones(1), 1)
    torch.testing.assert_close(zca_directions(c, keys, torch.tensor([1.0, 1e-9]), 1), alone)


def test_directions_that_never_occur_are_left_out() -> None:
    c, keys = moment(), draw_normal(4, 12, seed=7)
    c[3] = c[:, 3] = 0
    assert count_missing(c) == 1
    assert count_missing(moment()) == 0
    # As if the layer had no such unit.
    units = [unit for unit in range(12) if unit != 3]
    rest = c[units][:, units]
    root, inverse = root_and_inverse(c)
    torch.testing.assert_close(root @ root, c)
    torch.testing.assert_close(inverse[units][:, units], root_and_inverse(rest)[1])
    assert inverse[3].abs().max() < 1e-12 * inverse.abs().max()
    found = zca_directions(c, keys, torch.ones(4), 2)
    assert found[:, 3].abs().max() < 1e-12
    torch.testing.assert_close(
        found[:, units], zca_directions(rest, keys[:, units], torch.ones(4), 2)
    )


def test_a_second_moment_without_an_inverse_is_named() -> None:
    c = moment()
    with pytest.raises(NumericalError, match="is zero"):
        inverse_root(0 * c)
    c[3, 3] = float("nan")
    with pytest.raises(NumericalError, match="not finite"):
        inverse_root(c)


def test_too_few_independent_keys_are_named() -> None:
    keys = draw_normal(1, 12).repeat(4, 1)
    with pytest.raises(NumericalError, match="only 1 independent keys, and rank 2"):
        zca_directions(moment(), keys, torch.ones(4), 2)
    assert zca_directions(moment(), keys, torch.ones(4), 1).shape == (1, 12)


def test_a_context_that_is_given_twice_is_that_context() -> None:
    c, keys, weights = (
        moment(),
        draw_normal(5, 12, seed=9),
        torch.rand(5, generator=torch.Generator().manual_seed(1)) + 0.1,
    )
    wanted = zca_directions(c, keys, weights, 3)
    torch.testing.assert_close(zca_directions(c, keys.repeat(2, 1), weights.repeat(2), 3), wanted)
    # One key given twice counts for more than the others.
    doubled = zca_directions(c, torch.cat([keys, keys[:1]]), torch.cat([weights, weights[:1]]), 3)
    assert (doubled - wanted).abs().max() > 1e-3
