from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.registry import read_architecture
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.modalities.image.compatibility import REWRITING_2020
from editspec_runtime.modalities.image.maps import HALO, Box
from tests.cases import relative_error, tensor_infos

MakeTiny = Callable[..., dict[str, Tensor]]

LAYERS = [f"layer{n}" for n in range(2, 11)]


@pytest.fixture(scope="module")
def authors(golden: dict[str, dict[str, Tensor]]) -> StyleGAN2:
    return StyleGAN2(golden["sg2_g_ema"], compatibility=REWRITING_2020)


def test_images_are_the_authors(authors: StyleGAN2, golden: dict[str, dict[str, Tensor]]) -> None:
    stages = golden["sg2_stages_f32"]
    z = stages["z"][:4]
    assert relative_error(authors.mapping(z), stages["w"]) < 1e-6
    assert (
        relative_error(torch.cat([authors.images(one[None]) for one in z]), stages["images.batch1"])
        < 1e-5
    )
    assert relative_error(authors.images(z), stages["images.batch4"]) < 1e-5
    # Their noise goes by the place in the batch: the two differ, so that a match above means
    # something.
    assert relative_error(stages["images.batch4"], stages["images.batch1"]) > 1e-2


def test_truncation_is_what_the_authors_intended(golden: dict[str, dict[str, Tensor]]) -> None:
    stages = golden["sg2_stages_f32"]
    model = StyleGAN2(
        golden["sg2_g_ema"], 0.5, dataclasses.replace(REWRITING_2020, truncation=True)
    )
    images = torch.cat([model.images(one[None]) for one in stages["z"][:4]])
    assert relative_error(images, stages["images.batch1.psi0.5_intended"]) < 1e-5
    plain = StyleGAN2(golden["sg2_g_ema"], 0.5, REWRITING_2020)
    assert relative_error(plain.images(stages["z"][:1]), stages["images.batch1"][:1]) < 1e-5


@pytest.mark.parametrize("number", [4, 7, 8])
def test_keys_and_values_are_the_authors(
    authors: StyleGAN2, golden: dict[str, dict[str, Tensor]], number: int
) -> None:
    stages, layer = golden["sg2_stages_f32"], f"layer{number}"
    reached = authors.trace(layer, stages["z"][3:4])
    assert relative_error(reached.key, stages[f"L{number}.img3.k"]) < 1e-5
    assert relative_error(reached.arguments["style"], stages[f"L{number}.img3.style"]) < 1e-5
    assert relative_error(authors.layer_value(layer, reached), stages[f"L{number}.img3.v"]) < 1e-5


def test_mapping_in_float64(golden: dict[str, dict[str, Tensor]]) -> None:
    model = StyleGAN2({name: tensor.double() for name, tensor in golden["sg2_g_ema"].items()})
    assert (
        relative_error(
            model.mapping(golden["sg2_stages_f32"]["z"][:4].double()), golden["sg2_stages_f64"]["w"]
        )
        < 1e-14
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_prefix_value_and_rest_make_the_image(
    golden: dict[str, dict[str, Tensor]], layer: str
) -> None:
    model, z = StyleGAN2(golden["sg2_g_ema"]), golden["sg2_stages_f32"]["z"][:2]
    reached = model.trace(layer, z)
    whole = model.images(z)
    assert torch.equal(model.forward_from(layer, model.layer_value(layer, reached), reached), whole)
    assert not torch.equal(
        model.forward_from(layer, 0 * model.layer_value(layer, reached), reached), whole
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_a_haloed_crop_has_the_values_of_the_whole_map(make_tiny: MakeTiny, layer: str) -> None:
    model = StyleGAN2(make_tiny(size=64))
    reached = model.trace(layer, torch.randn(1, 8, generator=torch.Generator().manual_seed(0)))
    value, shape = model.layer_value(layer, reached), model.layer(layer)
    size = shape.key_size
    for region in (Box(0, 0, size, size), Box(0, 1, 2, 3), Box(size - 2, size - 3, size, size)):
        key, arguments = model.crop(layer, reached, region)
        crop = model.function(layer)(key, model.weight(layer), arguments)
        covered = region.scale_up(shape.scale)
        torch.testing.assert_close(
            crop, value[:, :, covered.rows(), covered.columns()], rtol=1e-5, atol=1e-5
        )
        # Without the halo the edge is wrong: that is the authors' tight crop.
        del arguments[HALO]
        tight = model.function(layer)(key[:, :, 1:-1, 1:-1], model.weight(layer), arguments)
        if region != Box(0, 0, size, size):
            assert (tight - crop).abs().max() > 1e-3


def test_an_image_does_not_depend_on_its_place_in_the_batch(make_tiny: MakeTiny) -> None:
    model, z = StyleGAN2(make_tiny()), torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    moved = model.images(z.roll(2, 0)).roll(-2, 0)
    torch.testing.assert_close(moved, model.images(z), rtol=0, atol=1e-5)
    authors = StyleGAN2(make_tiny(), compatibility=REWRITING_2020)
    assert (authors.images(z.roll(2, 0)).roll(-2, 0) - authors.images(z)).abs().max() > 1e-2


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (32, 6), (256, 2)])
def test_every_size_is_read_from_the_tensors(make_tiny: MakeTiny, size: int, channels: int) -> None:
    weights = make_tiny(size=size, channels=channels, latent_size=5)
    model = StyleGAN2(weights)
    assert (model.architecture.image_size, model.architecture.latent_size) == (size, 5)
    assert model.images(torch.ones(1, 5)).shape == (1, 3, size, size)
    last = list(model.architecture.layers.values())[-1]
    assert (last.value_size, last.in_features, last.scale) == (size, channels, 1)


def test_1024_pixels(make_tiny: MakeTiny) -> None:
    model = StyleGAN2(make_tiny(size=1024, channels=1))
    assert list(model.architecture.layers)[-1] == "layer18"
    assert model.images(torch.ones(1, 8)).shape == (1, 3, 1024, 1024)


def test_everything_that_does_not_fit_is_named(make_tiny: MakeTiny) -> None:
    tensors = tensor_infos(make_tiny())
    assert read_architecture("stylegan2", tensors).image_size == 32
    del tensors["convs.1.activate.bias"]
    tensors["convs.2.conv.modulation.weight"] = TensorInfo("F32", (6, 9))
    tensors["to_rgbs.0.bias"] = TensorInfo("I64", (1, 3, 1, 1))
    with pytest.raises(WeightsError) as error:
        read_architecture("stylegan2", tensors)
    for part in (
        "convs.1.activate.bias is missing",
        "6 x 9, expected 6 x 8",
        "to_rgbs.0.bias holds I64",
    ):
        assert part in str(error.value)


def test_other_weights_are_refused(make_tiny: MakeTiny) -> None:
    with pytest.raises(WeightsError, match="not a StyleGAN2 generator"):
        read_architecture("stylegan2", {"layer1.conv.weight": TensorInfo("F32", (4, 4))})
    with pytest.raises(WeightsError, match='Did you mean "stylegan2"'):
        read_architecture("stylegan", tensor_infos(make_tiny()))
    odd = {
        name: info
        for name, info in tensor_infos(make_tiny()).items()
        if not name.startswith("convs.5")
    }
    with pytest.raises(WeightsError, match="upsamples, and nothing follows it"):
        read_architecture("stylegan2", odd)


def test_seeded_noise_stands_in_for_missing_buffers(make_tiny: MakeTiny) -> None:
    weights = {
        name: tensor for name, tensor in make_tiny().items() if not name.startswith("noises.")
    }
    z = torch.ones(1, 8)
    assert torch.equal(StyleGAN2(weights).images(z), StyleGAN2(weights).images(z))
    assert not torch.equal(StyleGAN2(weights).images(z), StyleGAN2(make_tiny()).images(z))
