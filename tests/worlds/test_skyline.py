from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.worlds.skyline import READER, WEIGHTS, evaluate, train
from editspec.worlds.skyline.reader import Reader, load_reader, truth
from editspec.worlds.skyline.training import batches
from editspec.worlds.skyline.training.first_weights import COLOURS, first_weights
from editspec.worlds.skyline.world import (
    LATENT_SIZE,
    TOPS,
    Scene,
    find_changed_pixels,
    left_top,
    part_mask,
    people,
    reflection,
    render,
    right_top,
    scenes,
    windows,
)
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import read_header

COORDINATES = {
    "sky": 0,
    "sun_site": 1,
    "sun_height": 2,
    "ground": 3,
    "wall": 4,
    "roof": 5,
    "windows_lit": 6,
    "left_top": 7,
    "right_top": 8,
    "left_height": 9,
    "right_height": 10,
    "left_tree": 11,
    "right_tree": 12,
    "people": 13,
    "people_site": 14,
    "middle_watermark": 15,
    "bottom_watermark": 16,
    "reflection": 6,
}


def latents(count: int, seed: int = 5) -> Tensor:
    return torch.randn(count, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scenes(latents(64))


@pytest.fixture(scope="module")
def shipped() -> dict[str, Tensor]:
    return read_weights(WEIGHTS).tensors


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


def equal(one: Scene, other: Scene) -> bool:
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


# The world


def test_every_attribute_follows_its_coordinate_and_no_other() -> None:
    z = latents(256)
    before = scenes(z)
    for coordinate in range(20):
        # A change of sign leaves the length of the latent, by which it is normalised, as it was.
        flipped = z.clone()
        flipped[:, coordinate] *= -1
        after = scenes(flipped)
        moved = {
            name
            for name, value in vars(before).items()
            if not torch.equal(value, vars(after)[name])
        }
        assert moved == {name for name, own in COORDINATES.items() if own == coordinate}


def test_scenes_do_not_depend_on_the_length_of_the_latent_nor_on_the_batch() -> None:
    z = latents(32)
    whole = scenes(z)
    assert equal(scenes(2 * z), whole)
    assert equal(scenes(z[5:9]), whole[5:9])
    assert torch.equal(render(whole[5:9]), render(whole)[5:9])


def test_every_scene_is_its_own(scene: Scene) -> None:
    images = render(scene)
    assert images.shape == (64, 3, 64, 64)
    assert images.min() >= -1
    assert images.max() <= 1
    assert (images - images.roll(1, 0)).abs().mean((1, 2, 3)).min() > 0.02


def test_rates() -> None:
    many = scenes(latents(20000))
    assert many.middle_watermark.double().mean() >= 0.06
    assert many.bottom_watermark.double().mean() >= 0.03
    assert 0.2 < many.people.double().mean() < 0.4
    for tops in (many.left_top, many.right_top):
        shares = tops.bincount(minlength=len(TOPS)) / len(many)
        assert shares[:3].min() > 0.3
        assert shares[TOPS.index("tree")] == 0


def test_the_pond_reflects_light_only_when_the_windows_are_lit(scene: Scene) -> None:
    assert torch.equal(scene.reflection, scene.windows_lit)
    assert 0 < scene.windows_lit.sum() < len(scene)
    shines = part_mask(reflection, scene).amax((1, 2))
    assert torch.equal(shines > 0.5, scene.windows_lit == 1)


@pytest.mark.parametrize("new", ["spire", "battlements", "tree"])
def test_another_top_changes_the_top_and_nothing_else(scene: Scene, new: str) -> None:
    other = scene.with_tops("dome", new)
    domes = (scene.left_top == 0) | (scene.right_top == 0)
    where = find_changed_pixels(render(scene), render(other), threshold=1e-6)
    assert torch.equal(where.any(2).any(1), domes)
    tops = sum(part_mask(part, s) for part in (left_top, right_top) for s in (scene, other))
    assert not where[tops == 0].any()
    # A change that an edit can be judged by: some 60 pixels of every dome that goes.
    counts = find_changed_pixels(render(scene), render(other)).sum((1, 2))[domes]
    assert counts.min() > 40
    assert {TOPS[top] for top in other.left_top} == {"spire", "battlements", new}


@pytest.mark.parametrize(
    ("attribute", "part"),
    [("windows_lit", windows), ("reflection", reflection), ("people", people)],
)
def test_an_override_changes_its_part_and_nothing_else(
    scene: Scene, attribute: str, part: object
) -> None:
    without, having = scene.replace(**{attribute: 0}), scene.replace(**{attribute: 1})
    where = find_changed_pixels(render(without), render(having), threshold=1e-6)
    assert where.any(2).any(1).all()
    assert callable(part)
    assert not where[part_mask(part, having) == 0].any()


def test_overrides_take_names_numbers_and_tensors(scene: Scene) -> None:
    assert (scene.replace(left_top="spire").left_top == 1).all()
    assert (scene.replace(sky=0.25).sky == 0.25).all()
    assert torch.equal(scene.replace(right_top=scene.left_top).right_top, scene.left_top)
    with pytest.raises(AttributeError):
        scene.replace(left_tower="spire")
    with pytest.raises(ValueError, match="tuple"):
        scene.with_tops("dome", "onion")


def test_a_larger_picture_shows_the_same(scene: Scene) -> None:
    some = scene.replace(middle_watermark=1, bottom_watermark=1)[:16]
    small, large = render(some), render(some, 128)
    assert large.shape == (16, 3, 128, 128)
    assert (F.avg_pool2d(large, 2) - small).abs().mean() < 0.005
    # Nearest neighbours would not do: the pictures are antialiased.
    assert (large[..., ::2, ::2] - small).abs().mean() > 0.005


# The reader


def test_the_reader_reads_renders(reader: Reader) -> None:
    scene = scenes(latents(400, seed=6))
    read = reader.read(render(scene))
    for name, wanted in truth(scene).items():
        assert (read[name] == wanted).double().mean() >= 0.99, name
        # Not by guessing: of another scene it does not read the same.
        assert (read[name] == wanted.roll(1)).double().mean() < 0.95, name


def test_the_reader_reads_counterfactuals(reader: Reader) -> None:
    scene = (
        scenes(latents(100, seed=6)).with_tops("dome", "tree").replace(windows_lit=1, reflection=0)
    )
    read = reader.read(render(scene))
    for name, wanted in truth(scene).items():
        assert (read[name] == wanted).double().mean() >= 0.98, name


def test_features_are_maps_of_falling_size(reader: Reader, scene: Scene) -> None:
    assert [maps.shape[-1] for maps in reader.features(render(scene[:2]))] == [32, 16, 8, 4]


# The generator that ships


def test_what_ships_is_small_and_has_the_published_names() -> None:
    assert WEIGHTS.stat().st_size <= 8_000_000
    assert READER.stat().st_size <= 2_000_000
    names = set(read_header(WEIGHTS).tensors)
    assert names == {"latent_avg"} | {f"g_ema.{name}" for name in first_weights()}


def test_the_package_names_its_files_without_torch() -> None:
    code = (
        "import sys, editspec.worlds.skyline as s\n"
        "assert s.WEIGHTS.is_file()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_the_generator_draws_the_world(shipped: dict[str, Tensor], reader: Reader) -> None:
    z = evaluate.HELD_OUT.items(range(400))
    numbers = evaluate.measure(StyleGAN2(shipped).images, reader, z)
    assert evaluate.find_missed(numbers) == []
    assert numbers["mean_absolute_error.other_scene"] > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["style.3.weight", "convs.1.conv.weight", "convs.4.conv.weight", "to_rgbs.3.bias"]
)
def test_other_weights_miss_the_targets(
    shipped: dict[str, Tensor], reader: Reader, name: str
) -> None:
    other = shipped | {name: shipped[name].roll(1, 1) + (0.2 if name.endswith("bias") else 0)}
    numbers = evaluate.measure(StyleGAN2(other).images, reader, evaluate.HELD_OUT.items(range(50)))
    assert "mean_absolute_error" in evaluate.find_missed(numbers)


@torch.no_grad()
def test_the_average_of_w_is_that_of_the_mapping(shipped: dict[str, Tensor]) -> None:
    styles = StyleGAN2(shipped).mapping(latents(4000))
    assert (styles.mean(0) - shipped["latent_avg"]).abs().max() < 0.1
    assert styles.std(0).max() > 0.5


def test_shapes_are_told_by_features_and_neither_by_styles_nor_by_smaller_images(
    shipped: dict[str, Tensor],
) -> None:
    drawing = ["convs.4", "convs.5", "convs.6", "convs.7", "to_rgbs.2", "to_rgbs.3"]
    for name in drawing:
        seen = shipped[f"{name}.conv.modulation.weight"].any(0).nonzero().flatten()
        assert tuple(seen.tolist()) == COLOURS
    assert shipped["convs.3.conv.modulation.weight"].any(0).sum() > len(COLOURS)
    for name in ("to_rgb1", "to_rgbs.0", "to_rgbs.1"):
        assert not shipped[f"{name}.conv.weight"].any()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(batches, "BATCH", 2)
    monkeypatch.setattr(train, "STAGES", (*train.STAGES[:2], train.STAGES[-1]))

    def trained(folder: str) -> str:
        return tensors_digest(
            train.train_generator(tmp_path / folder, torch.device("cpu"), scale=0.001)
        )

    def breaking(*given: Any, plain: bool) -> Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return learning(*given, plain=plain)

    whole = trained("whole")
    calls, learning = itertools.count(), train.image_loss
    monkeypatch.setattr(train, "SAVED_EVERY", 2)
    monkeypatch.setattr(train, "image_loss", breaking)
    with pytest.raises(KeyboardInterrupt):
        trained("broken")
    assert torch.load(tmp_path / "broken" / "stage-1-synthesis.pt", weights_only=True)["step"] == 2
    assert trained("broken") == whole
    # It went on from step 2 of 4; the stage after it has one step.
    assert next(calls) == 4 + 2 + 1


def test_held_out_latents_are_none_that_the_training_drew() -> None:
    held_out = evaluate.HELD_OUT.items(range(50))
    drawn = torch.cat([latents(2000, seed) for seed in range(2020, 2140)])
    assert not (drawn[:, :1] == held_out[:, 0]).any()
