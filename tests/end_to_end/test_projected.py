"""A photograph that was projected is edited by its w: by w as by z, through everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import editspec
from editspec_compiler import load
from editspec_compiler.modalities.image.expected import find_check_images
from editspec_compiler.modalities.image.places import Resolver
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentStream

WEIGHTS = Path(__file__).parents[1] / "golden" / "sg2_g_ema.safetensors"
BOX = {"box": [8, 8, 24, 24]}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    model = make_model("stylegan2", read_weights(WEIGHTS).tensors)
    assert isinstance(model, StyleGAN2)
    return model


@pytest.fixture
def by_w(tmp_path: Path, generator: StyleGAN2) -> dict[int, Any]:
    """Latents 3 and 7 of the stream as a perfect projector would find them."""
    z = LatentStream(1, generator.architecture.latent_size).items([3, 7])
    np.savez(tmp_path / "projected_w.npz", w=generator.styles(z)[:1].numpy())
    torch.save({"seven": generator.mapping(z)[1]}, tmp_path / "encoded.pt")
    first = {"file": "projected_w.npz", "space": "w"}
    return {3: first, 7: {"file": "encoded.pt", "key": "seven", "space": "w"}}


def spec(folder: Path, one: Any, other: Any, **fields: Any) -> Path:
    """Write a spec that copies from latent `one` to latent `other`."""
    place = {"latent": other, "mask": {"box": [10, 10, 26, 26]}}
    edit = {
        "name": "paste",
        "layer": "layer6",
        "rank": 2,
        "source": {"latent": one, "mask": BOX},
        "target": place,
        "context": [place, {"latent": 5, "mask": BOX}],
        "solver": {"method": "direct", "steps": 10},
        **fields,
    }
    content = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": str(WEIGHTS)},
        "statistics": {"samples": 32},
        "edits": [{name: value for name, value in edit.items() if value is not None}],
        "checks": [
            {"measure": "efficacy", "at_least": 0},
            {"measure": "collateral", "at_most": 9, "images": [{"latents": [one]}]},
        ],
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(content))
    return path


def built(path: Path) -> tuple[list[float], Tensor]:
    """The values of the checks, and the change of the weight."""
    result = editspec.build(path, path.parent / "out", check=True, device="cpu")
    assert result.checked is not None
    patch = result.edits[0].patch
    (parameter,) = patch.parameters
    return [row.value or 0 for row in result.checked.checks], patch.delta(parameter)


def test_images_of_w_are_those_of_z(generator: StyleGAN2) -> None:
    z = LatentStream(1, generator.architecture.latent_size).items(range(4))
    styles = generator.styles(z)
    assert styles.shape == (4, 10, 64)
    assert torch.allclose(generator.images(styles), generator.images(z), atol=1e-5)
    # Each place has the w of its own: the first one alone moves the picture, as does the last.
    for place in (0, 9):
        moved = styles.clone()
        moved[:, place] = 0
        assert (generator.images(moved) - generator.images(z)).abs().max() > 1e-3


def test_truncation_is_not_applied_again() -> None:
    weights = dict(read_weights(WEIGHTS).tensors)
    weights["latent_avg"] = torch.full((64,), 0.1)
    whole, half = StyleGAN2(weights), StyleGAN2(weights, truncation=0.5)
    z = LatentStream(1, 64).items([3])
    assert torch.equal(half.images(whole.styles(z)), whole.images(whole.styles(z)))
    assert not torch.equal(half.images(z), whole.images(z))
    assert torch.allclose(half.images(half.styles(z)), half.images(z), atol=1e-5)


@pytest.mark.parametrize("named", [(3,), (7,), (3, 7)])
def test_an_edit_by_w_is_the_edit_by_z(
    tmp_path: Path, by_w: dict[int, Any], named: tuple[int, ...]
) -> None:
    plain = {3: 3, 7: 7}
    values, change = built(spec(tmp_path, plain[3], plain[7]))
    latents = plain | {number: by_w[number] for number in named}
    found_values, found = built(spec(tmp_path, latents[3], latents[7]))
    assert (found - change).norm() <= 1e-4 * change.norm()
    assert np.allclose(found_values, values, atol=1e-3)
    # Negative control: another latent gives another change.
    _, other = built(spec(tmp_path, 4, latents[7]))
    assert (other - change).norm() > 0.1 * change.norm()


def test_methods_that_join_latents_to_batches(tmp_path: Path, by_w: dict[int, Any]) -> None:
    """Pairs of an edit are solved as one batch, whether they are by w or by z."""
    pairs = []
    for source, target in ((by_w[3], 7), (4, by_w[7])):
        place = {"latent": target, "mask": BOX}
        pairs.append({"source": {"latent": source, "mask": BOX}, "target": place})
    alone = {"source": None, "target": None, "pairs": pairs}
    whole = {"context": None, "rank": None, "solver": {"method": "all-weights", "steps": 1}}
    path = spec(tmp_path, 3, 7, **alone, **whole)
    result = editspec.build(path, tmp_path / "whole", device="cpu")
    assert "convs.0.conv.weight" in result.edits[0].patch.parameters
    path = spec(tmp_path, 3, 7, **alone, observe="layer7")
    (edit,) = editspec.compile(path, tmp_path / "rules", device="cpu").edits
    assert edit.rules[0].key.shape[0] == 2


def test_latents_of_checks_may_be_w(
    tmp_path: Path, by_w: dict[int, Any], generator: StyleGAN2
) -> None:
    loaded = load(spec(tmp_path, by_w[3], 7))
    (image,) = find_check_images(loaded, 1, generator)
    assert image.latent.shape == (1, 10, 64)
    assert Resolver(loaded, generator, 0).vector(7).shape == (1, 10, 64)
    assert Resolver(load(spec(tmp_path, 3, 7)), generator, 0).vector(7).shape == (1, 64)
