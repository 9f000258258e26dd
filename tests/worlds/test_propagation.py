from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editspec.worlds.skyline.bench.propagation import (
    Example,
    best_buddies,
    moving_least_squares,
    propagate_edit,
)
from tests.cases import draw_normal_f32


def maps(seed: int = 0) -> list[Tensor]:
    return [draw_normal_f32(12, 16, 16, seed=seed), draw_normal_f32(12, 32, 32, seed=seed + 1)]


def test_a_similarity_is_found_again() -> None:
    points, places = draw_normal_f32(20, 2).double(), draw_normal_f32(50, 2, seed=1).double()
    turn = 2 * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    found = moving_least_squares(points, points @ turn.T + 0.3, places)
    assert torch.allclose(found, places @ turn.T + 0.3, atol=1e-9)
    sheared = points @ torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64).T
    assert not torch.allclose(moving_least_squares(points, sheared, places), places, atol=0.1)


def test_points_go_to_their_images_whatever_these_are() -> None:
    points = draw_normal_f32(20, 2).double()
    assert torch.allclose(
        moving_least_squares(points, points.flip(0), points), points.flip(0), atol=1e-5
    )


def test_one_point_moves_everything() -> None:
    places = draw_normal_f32(5, 2)
    found = moving_least_squares(torch.zeros(1, 2), torch.tensor([[0.5, -1.0]]), places)
    assert torch.allclose(found, places + torch.tensor([0.5, -1.0]), atol=1e-6)


def test_an_image_is_its_own_best_buddy() -> None:
    here, there = best_buddies(maps(), maps())
    assert len(here) == 32 * 32
    assert torch.equal(here, there)
    stranger, other = best_buddies(maps(), maps(seed=7))
    assert (stranger != other).any()


def test_what_moved_is_found_where_it_went() -> None:
    moved = [each.roll(shift, 2) for each, shift in zip(maps(), (2, 4), strict=True)]
    here, there = best_buddies(moved, maps())
    inner = (there[:, 0] > 0.1) & (there[:, 0] < 0.7)
    assert inner.sum() > 400
    assert torch.allclose((here - there)[inner], torch.tensor([0.125, 0.0]), atol=1e-6)


@pytest.fixture
def example() -> Example:
    area = torch.zeros(64, 64)
    area[20:40, 10:30] = 1
    return Example(maps(), torch.full((3, 64, 64), 0.5), area)


def test_an_edit_comes_back_to_its_own_image(example: Example) -> None:
    image = torch.zeros(3, 64, 64)
    found = propagate_edit(example, maps(), image, laplace=False)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[21:39, 11:29] = True
    assert torch.allclose(found[:, inside], torch.full((3, int(inside.sum())), 0.5), atol=1e-3)
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[19:41, 9:31] = False
    assert not found[:, outside].any()


def test_laplace_blending_keeps_gradients_and_takes_colours_from_around(example: Example) -> None:
    ramp = torch.linspace(-0.5, 0.5, 64).expand(3, 64, 64).clone()
    brighter = Example(example.features, ramp + 0.3, example.area)
    copied, blended = (
        propagate_edit(brighter, maps(), ramp, laplace=laplace) for laplace in (False, True)
    )
    assert (blended - ramp).abs().max() < 0.03
    assert (copied - ramp).abs().max() > 0.25


def test_nothing_is_pasted_where_nothing_was_edited(example: Example) -> None:
    nothing = Example(example.features, example.edited, torch.zeros(64, 64))
    image = draw_normal_f32(3, 64, 64)
    for laplace in (False, True):
        assert torch.equal(propagate_edit(nothing, maps(), image, laplace=laplace), image)
