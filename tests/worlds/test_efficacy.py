from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editspec.worlds.skyline.efficacy import (
    edit_measures,
    edit_numbers,
    find_changed_scenes,
    perceptual_change,
    readings,
)
from editspec.worlds.skyline.reader import Reader, load_reader
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, render, scenes
from editspec_runtime.modalities.image.latents import LatentStream


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scenes(LatentStream(11, LATENT_SIZE).items(range(40)))


@pytest.fixture(scope="module")
def spires(scene: Scene) -> Scene:
    return scene.with_tops("dome", "spire")


def numbers(scene: Scene, other: Scene, edited: Tensor, reader: Reader) -> dict[str, float]:
    return edit_numbers(edit_measures(scene, other, render(scene), edited, reader, reader.features))


def test_the_perfect_edit_is_perfect(scene: Scene, spires: Scene, reader: Reader) -> None:
    found = numbers(scene, spires, render(spires), reader)
    assert found["efficacy"] == found["read"] == 1
    assert found["distance"] == 0
    # Pixels that change by less than the threshold count as others.
    assert found["outside"] < 0.002


def test_no_edit_changes_nothing(scene: Scene, spires: Scene, reader: Reader) -> None:
    found = numbers(scene, spires, render(scene), reader)
    assert found["efficacy"] == found["read"] == found["outside"] == found["perceptual"] == 0
    assert found["distance"] > 0.1


def test_half_an_edit_is_half_as_good(scene: Scene, spires: Scene, reader: Reader) -> None:
    half = torch.cat([render(spires)[:, :, :, :32], render(scene)[:, :, :, 32:]], 3)
    found = numbers(scene, spires, half, reader)
    assert 0.3 < found["efficacy"] < 0.7
    assert 0 < found["read"] < 1


def test_what_changes_elsewhere_is_collateral(scene: Scene, spires: Scene, reader: Reader) -> None:
    edited = render(spires)
    edited[:, :, 40:] *= 0.5
    clean, spoilt = (
        numbers(scene, spires, render(spires), reader),
        numbers(scene, spires, edited, reader),
    )
    assert spoilt["efficacy"] == clean["efficacy"]
    assert spoilt["outside"] > 10 * clean["outside"]
    assert spoilt["perceptual"] > 2 * clean["perceptual"]


def test_the_perceptual_change_counts_only_where_it_is_asked_for(
    scene: Scene, reader: Reader
) -> None:
    before = render(scene)
    after = before.clone()
    after[:, :, :8] = 1
    top = torch.zeros(len(scene), 64, 64, dtype=torch.bool)
    top[:, :8] = True
    far = torch.zeros_like(top)
    far[:, 56:] = True
    assert perceptual_change(reader.features, before, after, top).min() > 0
    assert perceptual_change(reader.features, before, after, far).max() < 1e-2
    assert perceptual_change(reader.features, before, before, top).max() == 0


def test_a_scene_is_touched_where_an_attribute_changes(scene: Scene, spires: Scene) -> None:
    domes = (scene.left_top == 0) | (scene.right_top == 0)
    assert torch.equal(find_changed_scenes(scene, spires), domes)
    assert not find_changed_scenes(scene, scene).any()


def test_the_pond_is_lit_when_it_reflects(scene: Scene, reader: Reader) -> None:
    lit, dark = (readings(scene, render(scene.replace(reflection=on)), reader) for on in (1, 0))
    assert (lit["pond_light"] > dark["pond_light"] + 0.2).all()
    assert torch.equal(lit["window_light"], dark["window_light"])
    marked = readings(scene, render(scene.replace(middle_watermark=1, bottom_watermark=0)), reader)
    assert marked["middle_watermark"].all()
    assert not marked["bottom_watermark"].any()
