from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.families.registry import read_architecture
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.modalities.image.compatibility import REWRITING_2020
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.maps import Box
from tests.cases import relative_error, tensor_infos

LAYERS = [*(f"layer{n}" for n in range(1, 11)), "output_64x64"]
Golden = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def model(golden: Golden) -> ProgressiveGAN:
    return ProgressiveGAN(
        {name: tensor.double() for name, tensor in golden["pg_state_dict"].items()}
    )


@pytest.fixture(scope="module")
def latents(golden: Golden) -> Tensor:
    return golden["pg_stages_f64"]["z"][:, :, 0, 0].double()


def test_images_are_the_authors(model: ProgressiveGAN, latents: Tensor, golden: Golden) -> None:
    # They kept them as float32, clamped.
    assert (model.images(latents[:4]) - golden["pg_stages_f64"]["images"]).abs().max() < 1e-7
    assert (model.images(latents[1:5]) - golden["pg_stages_f64"]["images"]).abs().max() > 0.1


@pytest.mark.parametrize("number", [6, 8])
def test_second_moments_and_directions_are_the_authors(
    model: ProgressiveGAN, golden: Golden, number: int
) -> None:
    stages, stream = golden["pg_stages_f64"], LatentStream(1, 40, "numpy-legacy")
    found = second_moment(
        model, f"layer{number}", LatentSample(stream, 64), REWRITING_2020, default_cache()
    ).matrix
    assert relative_error(found, stages[f"L{number}.C"]) < 1e-10
    fewer = second_moment(
        model, f"layer{number}", LatentSample(stream, 60), REWRITING_2020, default_cache()
    ).matrix
    assert relative_error(fewer, stages[f"L{number}.C"]) > 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_prefix_value_and_rest_make_the_image(
    model: ProgressiveGAN, latents: Tensor, layer: str
) -> None:
    reached = model.trace(layer, latents[:2])
    value = model.layer_value(layer, reached)
    shape = model.layer(layer)
    assert value.shape == (2, shape.out_features, shape.value_size, shape.value_size)
    assert reached.key.shape == (2, shape.in_features, shape.key_size, shape.key_size)
    assert torch.equal(model.forward_from(layer, value, reached), model.images(latents[:2]))
    assert torch.equal(
        model.forward_from_output(layer, model.layer_output(layer, value), reached),
        model.images(latents[:2]),
    )
    assert not torch.equal(
        model.forward_from_output(layer, value, reached), model.images(latents[:2])
    )
    assert not torch.equal(model.forward_from(layer, 0 * value, reached), model.images(latents[:2]))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_haloed_crop_has_the_values_of_the_whole_map(
    model: ProgressiveGAN, latents: Tensor, layer: str
) -> None:
    reached = model.trace(layer, latents[:1])
    value, shape = model.layer_value(layer, reached), model.layer(layer)
    size = shape.key_size
    for region in (
        Box(0, 0, size, size),
        Box(0, size // 2, size // 2 + 1, size),
        Box(size // 2, 0, size, 1),
    ):
        key, arguments = model.crop(layer, reached, region)
        crop = model.function(layer)(key, model.weight(layer), arguments)
        covered = region.scale_up(shape.scale)
        torch.testing.assert_close(crop, value[:, :, covered.rows(), covered.columns()])


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_linear_from_key_to_value(
    model: ProgressiveGAN, latents: Tensor, layer: str
) -> None:
    one, other = (model.trace(layer, z[None]).key for z in latents[:2])
    function, weight = model.function(layer), model.weight(layer)
    both = function(2 * one - 3 * other, weight, {})
    torch.testing.assert_close(
        both, 2 * function(one, weight, {}) - 3 * function(other, weight, {})
    )
    torch.testing.assert_close(function.convolution(one, weight[0]), function(one, weight, {}))
    assert model.layer(layer).linear


def test_the_key_depends_on_what_is_upstream_alone(
    golden: Golden, model: ProgressiveGAN, latents: Tensor
) -> None:
    assert "layer5.conv.weight" in model.upstream("layer6")
    assert not [
        name
        for name in model.upstream("layer6")
        if name.startswith(("layer6.", "layer1" + "0.", "output"))
    ]
    assert set(model.trainable()) == set(golden["pg_state_dict"])


def test_everything_that_does_not_fit_is_named(golden: Golden) -> None:
    tensors = tensor_infos(golden["pg_state_dict"])
    assert read_architecture("proggan", tensors).image_size == 64
    del tensors["layer3.wscale.b"]
    tensors["layer4.conv.weight"] = TensorInfo("F32", (56, 55, 3, 3))
    tensors["layer5.conv.weight"] = TensorInfo("I64", (48, 56, 3, 3))
    with pytest.raises(WeightsError) as error:
        read_architecture("proggan", tensors)
    for part in (
        "layer3.wscale.b is missing (expected 56)",
        "56 x 55 x 3 x 3, expected 56 x 56 x 3 x 3",
        "holds I64",
    ):
        assert part in str(error.value)


def test_other_weights_are_refused(golden: Golden) -> None:
    with pytest.raises(WeightsError, match="not a Progressive GAN generator"):
        read_architecture("proggan", tensor_infos(golden["sg2_g_ema"]))
    with pytest.raises(WeightsError, match="not a StyleGAN2 generator"):
        read_architecture("stylegan2", tensor_infos(golden["pg_state_dict"]))
    odd = {
        name: info
        for name, info in tensor_infos(golden["pg_state_dict"]).items()
        if not name.startswith("layer10")
    }
    with pytest.raises(WeightsError, match="layer9 upsamples, and nothing follows it"):
        read_architecture("proggan", odd)
    with pytest.raises(WeightsError, match="output_64x64 is not what follows layer8"):
        read_architecture(
            "proggan", {name: info for name, info in odd.items() if not name.startswith("layer9")}
        )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pth_holds_the_same_generator(golden: Golden, tmp_path: Path, wrapped: bool) -> None:
    state = golden["pg_state_dict"]
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "g.pth")
    read = read_weights(tmp_path / "g.pth")
    assert set(read) == set(state)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
