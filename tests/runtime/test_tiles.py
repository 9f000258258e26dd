"""Key maps in tiles of rows."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image import tiles as in_tiles
from editspec_runtime.modalities.image.compatibility import (
    EDITSPEC,
    REWRITING_2020,
    ImageCompatibility,
)
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

MakeTiny = Callable[..., dict[str, Tensor]]


@pytest.fixture(params=["stylegan2", "stylegan2 of the authors", "clamped", "proggan"])
def model(
    request: pytest.FixtureRequest, make_tiny: MakeTiny, golden: dict[str, dict[str, Tensor]]
) -> Generator:
    """A generator of 64 x 64 pixels in float64."""
    if request.param == "proggan":
        return ProgressiveGAN(
            {name: tensor.double() for name, tensor in golden["pg_state_dict"].items()}
        )
    compatibility: ImageCompatibility = (
        REWRITING_2020 if request.param.endswith("authors") else EDITSPEC
    )
    made = StyleGAN2(
        {name: tensor.double() for name, tensor in make_tiny(size=64).items()},
        compatibility=compatibility,
    )
    if request.param == "clamped":
        made.clamp = 0.5
    return made


def latents_of(model: Generator) -> Tensor:
    return LatentStream(1, model.architecture.latent_size).items(range(3)).double()


@torch.no_grad()
def test_tiles_are_the_rows_of_the_whole_map(model: Generator) -> None:
    latents = latents_of(model)
    for layer, shape in model.architecture.layers.items():
        whole = model.key_maps(layer)(latents)
        for count in (1, 2, 3, 4, 5, 8, 16):
            tiles = list(model.map_tiles(layer, count)(latents))
            height = -(-shape.key_size // count)
            assert [tile.shape[2] for tile in tiles[:-1]] == [height] * (len(tiles) - 1)
            assert len(tiles) <= count
            found = torch.cat(tiles, 2)
            assert found.shape == whole.shape
            assert (found - whole).abs().max() <= 1e-12 * whole.abs().max()
            assert count > 1 or torch.equal(found, whole)


@torch.no_grad()
def test_a_tile_without_its_halo_is_another(
    model: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, layer = latents_of(model), "layer9"
    whole = model.key_maps(layer)(latents)

    def without(key: Tensor, ring: tuple[int, int, int, int]) -> Tensor:
        left, right, above, below = ring
        inner = key[:, :, 1 - above : key.shape[2] - 1 + below]
        return F.pad(inner, (left, right, 1, 1))

    assert torch.equal(F.pad(whole, (1, 1, 1, 1)), without(whole, (1, 1, 1, 1)))
    monkeypatch.setattr(in_tiles, "F", SimpleNamespace(pad=without))
    found = torch.cat(list(model.map_tiles(layer, 4)(latents)), 2)
    different = (found - whole).abs().amax((0, 1, 3)) > 1e-3 * whole.abs().max()
    # At the edges of tiles alone: the rest does not see that anything is missing.
    assert different[len(different) // 4]
    assert not different[0]
    assert not different[-1]


def test_only_maps_that_are_large_are_split(model: Generator) -> None:
    layers = list(model.architecture.layers.values())
    for tiles in (2, 4, 8):
        for last, layer in enumerate(layers[1:], 1):
            before = layers[1 : last + 1]
            start = in_tiles.small_start(before, tiles)
            numbers = [each.in_features * each.key_size**2 for each in before]
            assert all(tiles * number <= numbers[-1] for number in numbers[1 : start + 1])
            assert start == len(before) - 1 or tiles * numbers[start + 1] > numbers[-1]
            assert model.most_tiles(layer.name) == max(1, layer.key_size // 8)


@torch.no_grad()
def test_nothing_of_a_batch_outlives_its_tiles(make_tiny: MakeTiny) -> None:
    model = StyleGAN2(make_tiny(size=64))
    held = []

    def key_maps(layer: str) -> Callable[[Tensor], Tensor]:
        def key_of(latents: Tensor) -> Tensor:
            key = StyleGAN2.key_maps(model, layer)(latents)
            held.append(weakref.ref(key))
            return key

        return key_of

    model.key_maps = key_maps  # type: ignore[method-assign]
    list(model.map_tiles("layer9", 4)(LatentStream(1, 8).items(range(2))))
    assert len(held) == 1
    assert held[0]() is None
