from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editspec.modalities.image.artefacts import LEAST_PIXELS, has_artefact
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


@pytest.mark.parametrize(("share", "near"), [(0.0, 0), (0.5, 0), (0.7, 0), (0.8, 1), (1.0, 1)])
def test_a_share_of_the_edit_is_recovered(
    share: float, near: int, scene: Scene, spires: Scene, reader: Reader
) -> None:
    before, after = render(scene), render(spires)
    found = numbers(scene, spires, before + share * (after - before), reader)
    assert found["recovered"] == pytest.approx(share, abs=1e-5)
    assert found["within_quarter"] == near
    # Efficacy tells less: half of the way is none, a little more is all of it.
    if share != 0.5:
        assert found["efficacy"] == (share > 0.5)


def test_an_edit_beyond_its_aim_recovers_less_than_nothing(
    scene: Scene, spires: Scene, reader: Reader
) -> None:
    before, after = render(scene), render(spires)
    assert numbers(scene, spires, 2 * before - after, reader)["recovered"] == pytest.approx(-1)


@pytest.mark.parametrize(("rows", "seen"), [(4, True), (0, False)])
def test_the_largest_changes_elsewhere_are_seen(
    rows: int, seen: bool, scene: Scene, reader: Reader
) -> None:
    edited = render(scene)
    edited[:, :, 64 - rows :] += 0.5
    # One pixel in a thousand is not the hundredth part.
    edited[:, :, 0, :4] += 0.5
    found = numbers(scene, scene.replace(windows_lit=1), edited, reader)
    assert (found["outside_99"] > 0.4) is seen
    assert found["outside"] < 0.05


def test_images_that_should_stay_are_measured_apart(
    scene: Scene, spires: Scene, reader: Reader
) -> None:
    untouched = ~find_changed_scenes(scene, spires)
    share = untouched.double().mean().item()
    assert 0.1 < share < 0.9
    edited = render(spires)
    edited[untouched, :, 59:63, 30:34] += 0.3
    found = numbers(scene, spires, edited, reader)
    assert found["untouched_trace"] == 1
    assert found["trace"] == pytest.approx(share)
    assert found["untouched_outside"] == pytest.approx(0.3 * 16 / 64**2, rel=1e-4)
    # Negative control: the others alone.
    edited = render(spires)
    edited[~untouched, :, 59:63, 30:34] += 0.3
    found = numbers(scene, spires, edited, reader)
    assert found["untouched_trace"] == found["untouched_outside"] == 0
    assert found["trace"] == pytest.approx(1 - share)
    # Where the perfect edit changes every picture, none is left.
    lit = scene.replace(windows_lit=1 - scene.windows_lit)
    assert "untouched_trace" not in numbers(scene, lit, render(lit), reader)


def test_a_picture_has_a_trace_where_people_see_one(
    scene: Scene, spires: Scene, reader: Reader
) -> None:
    clean = numbers(scene, spires, render(spires), reader)
    assert clean["trace"] == clean["strong"] == clean["trace-0.06"] == 0
    edited = render(spires)
    # A spot of 4 x 4 pixels on the ground of every fourth picture, where nothing should change.
    edited[::4, :, 59:63, 30:34] += 0.15
    spoilt = numbers(scene, spires, edited, reader)
    assert spoilt["trace"] == pytest.approx(0.25)
    assert spoilt["trace-0.06"] >= spoilt["trace-0.1"] == spoilt["trace"]
    assert spoilt["strong"] == spoilt["trace-0.2"] == 0
    edited[::4, :, 59:63, 30:34] += 0.3
    assert numbers(scene, spires, edited, reader)["strong"] == pytest.approx(0.25)


def test_the_perfect_change_leaves_no_trace_and_an_undone_one_neither(
    scene: Scene, spires: Scene, reader: Reader
) -> None:
    assert numbers(scene, spires, render(scene), reader)["trace"] == 0
    # The same change where the perfect edit asks for it is none; elsewhere it is one.
    lit = scene.replace(windows_lit=1 - scene.windows_lit)
    other = numbers(scene, lit, render(spires), reader)
    domes = ((scene.left_top == 0) | (scene.right_top == 0)).double().mean().item()
    assert other["trace"] == pytest.approx(domes, abs=0.06)


@pytest.mark.parametrize(("pixels", "seen"), [(3, False), (4, True), (9, True)])
def test_a_spot_needs_some_pixels_that_touch(pixels: int, seen: bool) -> None:
    change = torch.zeros(2, 16, 16)
    # All are far above the threshold, as the mean of each neighbourhood must be.
    for number in range(pixels):
        change[0, 5 + number % 3, 5 + number // 3] = 3.0
    # As many pixels, scattered.
    for number in range(pixels):
        change[1, 2 + 5 * (number % 3), 2 + 5 * (number // 3)] = 3.0
    found = has_artefact(change, 0.1).tolist()
    assert found == [seen, False]


def test_a_pixel_of_a_spot_changes_itself_by_six_tenths_of_the_threshold() -> None:
    """Next to a large change every neighbourhood is above the threshold."""
    change = torch.zeros(2, 12, 12)
    change[:, 5, 5:8] = 2.0
    change[0, 6, 6], change[1, 6, 6] = 0.055, 0.065
    assert has_artefact(change, 0.1).tolist() == [False, True]


def test_spots_at_corners_are_one(scene: Scene) -> None:
    change = torch.zeros(1, 12, 12)
    for step in range(4):
        change[0, 3 + step, 3 + step] = 3.0
    assert has_artefact(change, 0.1).all()
    assert not has_artefact(change, 2.0).any()


def largest_spot(hot: Tensor) -> int:
    """The pixels of the largest connected spot of [h, w], filled one by one."""
    left, largest = {(int(row), int(column)) for row, column in hot.nonzero()}, 0
    while left:
        front, size = [left.pop()], 0
        while front:
            row, column = front.pop()
            size += 1
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
            front += near & left
            left -= near
        largest = max(largest, size)
    return largest


def test_spots_are_counted_as_when_they_are_filled() -> None:
    noise = torch.rand(60, 14, 14, generator=torch.Generator().manual_seed(0))
    change = torch.where(noise > 0.9, 9.0, 0.0)
    filled = [largest_spot(each > 0) >= LEAST_PIXELS for each in change]
    assert has_artefact(change, 0.1).tolist() == filled
    assert 5 < sum(filled) < 55
