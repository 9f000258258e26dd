"""Specs, masks and networks that ask for much: answered within seconds, with what to do."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import nn
from torch.nn.utils import parametrize

from editspec_compiler import SpecError, load
from editspec_compiler.modalities.image import mask_files, masks
from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.schema import BoxMask, Mask, PolygonMask, UnionMask
from editspec_compiler.problems import SHOWN
from editspec_runtime.families.torch_module.network import TorchModule
from editspec_runtime.families.torch_module.source import Source


def test_many_problems_on_one_line_end_within_seconds(tmp_path: Path) -> None:
    keys = ", ".join(f"unknown{number}: {number}" for number in range(8_000))
    path = tmp_path / "spec.yaml"
    path.write_text("{version: 1, model: {family: stylegan2, weights: x}, " + keys + "}")
    assert path.stat().st_size > 120_000
    begun = time.process_time()
    with pytest.raises(SpecError) as caught:
        load(path)
    text = str(caught.value)
    assert time.process_time() - begun < 12
    assert len(caught.value.problems) > 8_000
    left_out = len(caught.value.problems) - SHOWN
    assert text.endswith(f"{left_out} more problems are not shown")
    assert caught.value.as_json()["left_out"] == left_out
    assert len(caught.value.as_json()["problems"]) == SHOWN
    # Negative control: few problems are all shown.
    path.write_text("{version: 1, model: {family: stylegan2, weights: x}, a: 1, b: 2}")
    with pytest.raises(SpecError) as caught:
        load(path)
    assert "more problems" not in str(caught.value)
    assert "left_out" not in caught.value.as_json()


def test_a_mask_that_several_places_name_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = mask_files._decode_file

    def count(name: str, file: Any, *, legacy: bool) -> Image.Image:
        decoded.append(name)
        return real(name, file, legacy=legacy)

    monkeypatch.setattr(mask_files, "_decode_file", count)
    path = tmp_path / "mask.png"
    Image.new("L", (64, 64), 255).save(path)
    for _ in range(50):
        mask_area("mask.png", tmp_path, 64, 8, legacy=False)
    assert len(decoded) == 1
    # Negative control: another content is another mask.
    Image.new("L", (32, 32), 128).save(path)
    assert mask_area("mask.png", tmp_path, 64, 8, legacy=False).max() < 0.6
    assert len(decoded) == 2


def test_the_pixels_of_masks_are_bounded(tmp_path: Path) -> None:
    for side, fits in ((4096, True), (8192, False)):
        Image.new("L", (side, side), 255).save(tmp_path / f"{side}.png", compress_level=1)
        if fits:
            mask_area(f"{side}.png", tmp_path, 64, 8, legacy=False)
            continue
        with pytest.raises(masks.MaskError, match="the most is"):
            mask_area(f"{side}.png", tmp_path, 64, 8, legacy=False)


def test_thousands_of_shapes_are_drawn_within_seconds() -> None:
    boxes = [BoxMask(box=[n % 60, n % 50, n % 60 + 2, n % 50 + 3]) for n in range(7000)]
    begun = time.process_time()
    area = mask_area(UnionMask(union=boxes), Path(), 64, 16, legacy=False)
    for box in boxes:
        masks.require_sound(box, Path(), 64, legacy=False)
    assert time.process_time() - begun < 10
    few = mask_area(UnionMask(union=boxes[:300]), Path(), 64, 16, legacy=False)
    assert (area == few).all()  # the places repeat after 300 boxes


def test_a_polygon_is_drawn_where_it_is() -> None:
    """A square as a polygon is the box, at every place of the image."""
    for left, top, right, bottom in ((0, 0, 64, 64), (3, 5, 9, 60), (60, 61, 64, 64)):
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        polygon = mask_area(PolygonMask(polygon=corners), Path(), 64, 64, legacy=False)
        box = BoxMask(box=[left, top, right, bottom])
        assert (polygon == mask_area(box, Path(), 64, 64, legacy=False)).all()


class Halves(nn.Module):
    """A parametrisation whose original has another shape than the weight."""

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        return torch.cat([original, original])


def test_a_weight_of_another_shape_than_its_parameter_is_refused_with_advice() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ConvTranspose2d(4, 5, 4), nn.ReLU(), nn.ConvTranspose2d(5, 3, 4, 2, 1)
    )
    layer = network[0]
    whole = layer.weight.detach()
    del layer.weight
    layer.weight = nn.Parameter(whole[:2].clone())
    parametrize.register_parametrization(layer, "weight", Halves(), unsafe=True)
    network.latent_shape = (4, 1, 1)  # type: ignore[assignment]
    network.eval()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = TorchModule(weights, Source(network, "code"))
    assert list(model.architecture.layers) == ["2"]
    assert "computed from parameters of other shapes" in model.refused["0"].message
    assert "remove_parametrizations" in model.refused["0"].hint


@pytest.mark.parametrize("kind", ["polygon", "box", "ellipse", "union"])
def test_thousands_of_shapes_as_large_as_the_image_are_joined_in_seconds(kind: str) -> None:
    size, parts = 256, []
    for number in range(3000):
        inset = number * 1e-4
        corners = [inset, inset, size - inset, size - inset]
        shape: dict[str, Any] = {kind: corners}
        if kind in ("polygon", "union"):
            left, top, right, bottom = corners
            shape = {"polygon": [[left, top], [right, top], [right, bottom], [left, bottom]]}
        parts.append({"union": [shape]} if kind == "union" else shape)
    mask = TypeAdapter(Mask).validate_python({"union": parts})
    begun = time.process_time()
    image = mask_image(mask, Path(), size, legacy=False)
    assert time.process_time() - begun < 20
    whole = TypeAdapter(Mask).validate_python(parts[0])
    assert image == mask_image(whole, Path(), size, legacy=False)


def test_images_by_the_thousand_are_refused_before_they_are_drawn() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 255).save(buffer, "PNG")
    parts: list[Any] = []
    for number in range(3000):
        text = base64.b64encode(buffer.getvalue() + bytes([number % 256, number // 256])).decode()
        parts.append(f"data:image/png;base64,{text}")
    begun = time.process_time()
    with pytest.raises(MaskError, match="one by one"):
        mask_image(TypeAdapter(Mask).validate_python({"union": parts}), Path(), 256, legacy=False)
    assert time.process_time() - begun < 30
    few = TypeAdapter(Mask).validate_python({"union": parts[:3]})
    assert mask_image(few, Path(), 256, legacy=False).getbbox() is not None
