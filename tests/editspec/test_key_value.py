"""What a value draws, and where a key matches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from editspec.modalities.image.key_value import SEARCHED, draw_alone, find_matches
from editspec.modalities.image.pictures import spotlight
from editspec_compiler import load
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_compiler.modalities.image.expected import find_source_values
from editspec_compiler.modalities.image.places import moment_of
from editspec_compiler.modalities.image.resolve import resolve_rule
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.cache import default_cache
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run

MakeTiny = Callable[..., dict[str, Tensor]]
SOURCE = {"latent": 1, "mask": {"box": [8, 8, 16, 16]}}
TARGET = {"latent": 2, "mask": {"box": [16, 8, 24, 16]}}


@pytest.fixture
def spec(
    make_tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    save_file(make_tiny(), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)

    def make(*edits: dict[str, Any]) -> Path:
        data = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "statistics": {"samples": 20},
            "edits": [
                {"name": f"e{n}", "layer": "layer6", "source": SOURCE, "target": TARGET} | edit
                for n, edit in enumerate(edits)
            ],
        }
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(data))
        return tmp_path / "spec.yaml"

    return make


def test_a_value_alone_is_zero_outside_of_its_mask(
    spec: Callable[..., Path], make_tiny: MakeTiny
) -> None:
    loaded, model = load(spec({})), StyleGAN2(make_tiny())
    (value,) = find_source_values(loaded, 0, model, moment_of(loaded, default_cache()))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert not value.value[:, :, ~inside].any()
    rule = resolve_rule(loaded, 0, model, moment_of(loaded, default_cache()))
    torch.testing.assert_close(value.value[:, :, 4:8, 4:8], rule.value)
    whole, alone = draw_alone(model, "layer6", [value])
    torch.testing.assert_close(whole, model.images(value.latent))
    assert (whole - alone).abs().max() > 0.1
    # What is drawn alone knows nothing of the image that the layers before have drawn.
    reached = value.trace
    brighter = reached.carried.__class__(reached.carried.image + 1, reached.carried.styles)
    shifted = value.__class__(
        value.latent, reached.__class__(reached.key, reached.arguments, brighter), value.value
    )
    other, same = draw_alone(model, "layer6", [shifted])
    torch.testing.assert_close(same, alone)
    assert (other - whole).abs().max() > 0.1


def test_an_erased_value_alone_lacks_its_units(
    spec: Callable[..., Path], make_tiny: MakeTiny
) -> None:
    loaded, model = load(spec({"source": {"erase": {"units": 2}}})), StyleGAN2(make_tiny())
    (value,) = find_source_values(loaded, 0, model, moment_of(loaded, default_cache()))
    rule = resolve_rule(loaded, 0, model, moment_of(loaded, default_cache()))
    torch.testing.assert_close(value.value[:, :, 4:8, 8:12], rule.value, rtol=1e-5, atol=1e-5)


def test_a_key_matches_best_where_it_comes_from(
    spec: Callable[..., Path], make_tiny: MakeTiny
) -> None:
    model = StyleGAN2(make_tiny())
    stream = LatentStream(1, 8)
    keys, weights = find_context_keys(load(spec({"solver": {"method": "layer"}})), 0, model)
    assert (keys.shape, weights.tolist()) == ((16, 6), [1.0] * 16)
    direction = model.trace("layer6", stream.items([7])).key[0, :, 3, 5]
    images, light, _ = find_matches(
        model, "layer6", direction / direction.norm(), stream, 4, EDITSPEC
    )
    assert images.shape == (4, 3, 32, 32)
    # By hand: every image, every position.
    scores = torch.stack(
        [
            (
                model.trace("layer6", stream.items([n])).key[0]
                * direction[:, None, None]
                / direction.norm()
            ).sum(0)
            for n in range(SEARCHED)
        ]
    )
    best = scores.flatten(1).amax(1).argsort(descending=True, stable=True)[:4].tolist()
    torch.testing.assert_close(images[0], model.images(stream.items(best[:1]))[0])
    torch.testing.assert_close(light, (scores[best] / scores.max()).clamp(0, 1))
    assert light[0].max() == 1
    assert light.amax((1, 2)).diff().max() <= 0


def test_a_spotlight_leaves_what_is_lit_and_darkens_the_rest() -> None:
    images, light = torch.ones(1, 3, 4, 4), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    lit = spotlight(images, light)
    torch.testing.assert_close(lit[0, :, :2, :2], torch.ones(3, 2, 2))
    assert lit[0, :, 2:, 2:].max() < -0.6


@pytest.mark.parametrize("option", ["--value", "--key"])
def test_render_shows_a_band_for_every_edit(spec: Callable[..., Path], option: str) -> None:
    short = {"solver": {"method": "direct", "steps": 5}}
    heights = []
    for edits in ([short], [short, short]):
        path = spec(*edits)
        result = run("render", path, option, "--count", "2", "-o", "out.png")
        assert result.exit_code == 0, result.stderr
        with Image.open("out.png") as picture:
            heights.append(picture.height)
    assert heights[1] == 2 * heights[0]
    result = run("render", "spec.yaml", "--value", "--key", "-o", "out.png")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr
