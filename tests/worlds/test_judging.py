"""Edits made by hand out of rendered scenes, and what judges and sweeps make of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from editspec.engine.sweep_points import SweepPoint, pick_winner
from editspec.worlds.registry import WORLDS, find_experiment
from editspec.worlds.skyline import WEIGHTS
from editspec.worlds.skyline.efficacy import find_changed_scenes
from editspec.worlds.skyline.world import LATENT_SIZE, render, scenes
from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.image.latents import LatentStream

LATENTS = LatentStream(12, LATENT_SIZE).items(range(24))
SPIRES = scenes(LATENTS).with_tops("dome", "spire")


def half_made() -> Tensor:
    """The perfect edit in the left half of every picture, and none in the right half."""
    return torch.cat(
        [render(SPIRES)[..., :32], render(scenes(LATENTS))[..., 32:]],
        dim=3,
    )


def spoiled() -> Tensor:
    """The perfect edit, with a lower third of every picture that nobody asked to change."""
    images = render(SPIRES)
    images[:, :, 44:] *= 0.2
    return images


EDITS = {
    "perfect": lambda: render(SPIRES),
    "half made": half_made,
    "spoiled": spoiled,
    "none": lambda: render(scenes(LATENTS)),
}


@functools.cache
def measure_by_hand(name: str) -> dict[str, float]:
    """Efficacy, change outside and error of an edit, picture by picture and pixel by pixel."""
    edited = EDITS[name]()
    before, wanted = render(scenes(LATENTS)).numpy(), render(SPIRES).numpy()
    closer = asked = 0
    distances, changes = [], []
    for image, original, perfect in zip(edited.numpy(), before, wanted, strict=True):
        for row, column in np.ndindex(64, 64):
            pixel, was, goal = (each[:, row, column] for each in (image, original, perfect))
            if np.abs(goal - was).mean() > 0.1:
                asked += 1
                closer += np.abs(pixel - goal).mean() < np.abs(pixel - was).mean()
                distances.append(np.abs(pixel - goal).mean())
            else:
                changes.append(np.abs(pixel - was).mean())
    outside = float(np.mean(changes))
    return {
        "efficacy": closer / asked,
        "outside": outside,
        "error": float(np.mean(distances)) + outside,
    }


@pytest.fixture(scope="module")
def judge() -> Any:
    make_judge = find_experiment("dome-to-spire", WEIGHTS)
    return make_judge(LATENTS, render(scenes(LATENTS)))


@pytest.mark.parametrize("name", EDITS)
def test_a_judge_measures_what_is_counted_by_hand(name: str, judge: Any) -> None:
    found, counted = judge(EDITS[name]()).numbers, measure_by_hand(name)
    assert {kind: found[kind] for kind in counted} == pytest.approx(counted, abs=1e-6)


def test_the_perfect_edit_wins_and_a_spoiled_one_loses(judge: Any) -> None:
    points = {
        name: SweepPoint(name, 1, numbers=judge(edit()).numbers) for name, edit in EDITS.items()
    }
    assert pick_winner(list(points.values())) is points["perfect"]
    # Both do all that was asked; what one of them did besides must decide.
    assert points["spoiled"].numbers["efficacy"] == 1
    del points["perfect"]
    errors = {name: measure_by_hand(name)["error"] for name in points}
    # What spoils every picture is seen in every picture.
    errors["spoiled"] *= 2
    assert pick_winner(list(points.values())).layer == min(errors, key=errors.__getitem__)
    fair, foul = SweepPoint("fair", 1, numbers=judge(render(SPIRES)).numbers), points["spoiled"]
    assert pick_winner([foul, fair]) is fair


def test_what_people_see_decides_as_well() -> None:
    def winner(*numbers: dict[str, float]) -> int:
        points = [SweepPoint(f"layer{at}", 1, numbers=each) for at, each in enumerate(numbers)]
        return points.index(pick_winner(points))

    clean = {"error": 0.15, "trace": 0.0}
    assert winner({"error": 0.1, "trace": 1.0}, clean) == 1
    assert winner({"error": 0.1, "trace": 0.4}, clean) == 0
    assert winner({"error": 0.1, "trace": 0.0}, clean) == 0
    # Where no perfect edit is known.
    rule = {"efficacy": 0.9, "outside": 0.01}
    assert winner(rule | {"efficacy": 0.95, "trace": 0.9}, rule | {"trace": 0.1}) == 1
    assert winner(rule | {"efficacy": 0.95}, rule) == 0


def test_intervals_hold_the_numbers_and_shrink_with_the_pictures(judge: Any) -> None:
    found = judge(half_made())
    assert set(found.intervals) == set(found.numbers) - {"error"}
    for name, (low, high) in found.intervals.items():
        assert low <= found.numbers[name] <= high
    low, high = found.intervals["efficacy"]
    assert 0 < high - low < 0.6
    # The same pictures give the same interval.
    assert judge(half_made()) == found
    # The perfect edit is sure.
    assert judge(render(SPIRES)).intervals["recovered"] == pytest.approx((1, 1))


def test_pictures_without_the_attribute_judge_nothing() -> None:
    latents = LATENTS[~find_changed_scenes(scenes(LATENTS), SPIRES)]
    make_judge = find_experiment("dome-to-spire", WEIGHTS)
    with pytest.raises(UsageError, match="The perfect edit changes nothing in"):
        make_judge(latents, render(scenes(latents)))


def test_another_experiment_wants_another_edit() -> None:
    """Spires are not what `dome-to-tree` asks for: there, the edit to trees wins."""
    make_judge = find_experiment("dome-to-tree", WEIGHTS)
    judge = make_judge(LATENTS, render(scenes(LATENTS)))
    trees = render(scenes(LATENTS).with_tops("dome", "tree"))
    points = [
        SweepPoint("spires", 1, numbers=judge(render(SPIRES)).numbers),
        SweepPoint("trees", 1, numbers=judge(trees).numbers),
    ]
    assert pick_winner(points).layer == "trees"


def test_an_experiment_is_found_by_its_name_and_the_weights(tmp_path: Path) -> None:
    for world in WORLDS.values():
        for name, maker in world.load_experiments().items():
            assert find_experiment(name, world.weights) is maker
    with pytest.raises(UsageError, match="There is no experiment dome-to-moon"):
        find_experiment("dome-to-moon", WEIGHTS)
    known = "known for builtin:skyline and builtin:skyline-plain only"
    with pytest.raises(UsageError, match=known):
        find_experiment("dome-to-spire", tmp_path / "other.safetensors")
