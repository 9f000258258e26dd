from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.schema import BoxMask, EllipseMask, PolygonMask, UnionMask

HERE = Path()


def area(
    mask: Any, resolution: int = 64, size: int = 64, *, folder: Path = HERE, legacy: bool = False
) -> Any:
    return mask_area(mask, folder, size, resolution, legacy=legacy)


def url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_decoded_as_the_authors_do(
    record: dict[str, Any], golden: dict[str, dict[str, Tensor]]
) -> None:
    copied = record["record"]
    named = {"object": copied["object"][1], "paste": copied["paste"][1], **record["extra"]}
    named |= {f"key{index}": key[1] for index, key in enumerate(copied["key"])}
    del named["empty"]
    for name, mask in named.items():
        for resolution in (8, 16, 32):
            found = area(mask, resolution, legacy=True)
            wanted = golden["masks"][f"{name}.{resolution}"].numpy()
            assert np.array_equal(found.astype(np.float32), wanted), (name, resolution)
            assert np.array_equal(found * 255, (found * 255).round())
    with pytest.raises(MaskError, match="is empty"):
        area(record["extra"]["empty"], legacy=True)


def test_alpha_counts_except_for_the_authors() -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 32, 64))
    image.paste((255, 255, 255, 128), (32, 0, 48, 64))
    found = area(url(image))
    assert (found[:, :32].min(), found[:, 48:].max()) == (1, 0)
    assert np.allclose(found[:, 32:48], 128 / 255)
    assert area(url(image), legacy=True).min() == 1
    assert np.array_equal(area(url(image.convert("LA"))), found)


@pytest.mark.parametrize("resolution", [4, 16, 32, 64])
def test_a_box_covers_its_share_of_every_position(resolution: int) -> None:
    found = area(BoxMask(box=[10, 8, 26, 31]), resolution)
    assert np.isclose(found.sum(), 16 * 23 / (64 / resolution) ** 2)
    step = 64 // resolution
    fine = np.zeros((64, 64))
    fine[8:31, 10:26] = 1
    assert np.allclose(found, fine.reshape(resolution, step, resolution, step).mean((1, 3)))


def test_shapes_have_their_area() -> None:
    ellipse = area(EllipseMask(ellipse=[10, 10, 50, 30]))
    assert np.isclose(ellipse.sum(), np.pi * 20 * 10, rtol=0.01)
    triangle = area(PolygonMask(polygon=[[0, 0], [40, 0], [0, 40]]))
    assert np.isclose(triangle.sum(), 800, rtol=0.02)
    assert ((ellipse > 0) & (ellipse < 1)).any()  # antialiased
    union = area(
        UnionMask(union=[BoxMask(box=[10, 10, 50, 30]), EllipseMask(ellipse=[10, 10, 50, 30])])
    )
    assert np.array_equal(union, area(BoxMask(box=[10, 10, 50, 30])))
    apart = area(UnionMask(union=[BoxMask(box=[0, 0, 2, 2]), BoxMask(box=[4, 4, 6, 6])]))
    assert apart.sum() == 8


@pytest.mark.parametrize("side", [7, 32, 64, 200])
def test_images_of_any_size_mean_the_same(side: int, tmp_path: Path) -> None:
    image = Image.new("L", (side, side))
    image.paste(255, (0, 0, side, side // 2))
    image.save(tmp_path / "m.png")
    found = area("m.png", 32, folder=tmp_path)
    assert found[:15].mean() > 0.9
    assert found[17:].mean() < 0.1


def test_deep_images_keep_their_scale() -> None:
    deep = Image.fromarray(np.full((64, 64), 65535 // 2, dtype=np.uint16))
    assert abs(area(url(deep)).mean() - 0.5) < 0.01


def test_a_large_model_is_not_too_large() -> None:
    assert np.isclose(area(BoxMask(box=[0, 0, 512, 1024]), 16, 1024).mean(), 0.5)
