"""`inspect` shows what a picture is as a mask."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.commands import run, said


def paint(path: Path, brightness: int, *, mode: str = "L") -> Path:
    """A picture of 16 x 16 pixels with a square of 4 x 4 pixels."""
    image = Image.new("L", (16, 16))
    image.paste(brightness, (2, 2, 6, 6))
    image.convert(mode).save(path)
    return path


def test_a_mask_is_shown(tmp_path: Path) -> None:
    facts = said("inspect", paint(tmp_path / "m.png", 200))
    assert facts == {
        "kind": "mask",
        "format": "PNG",
        "size": [16, 16],
        "mode": "gray",
        "brightest": 200,
        "covered": round(16 / 256, 4),
    }
    text = run("inspect", tmp_path / "m.png").stdout
    assert "size: 16 x 16" in text
    assert "brightest: 200" in text


def test_what_is_odd_about_it_is_shown(tmp_path: Path) -> None:
    path = paint(tmp_path / "m.bmp", 255, mode="RGB")
    with Image.open(path) as image:
        image.paste((255, 255, 255), (0, 0, 16, 15))
        image.save(path)
    facts = said("inspect", path)
    assert (facts["format"], facts["mode"], facts["covered"]) == ("BMP", "color", 0.9375)
    (found,) = facts["warnings"]
    assert found["warning"] == "the mask covers 94% of the image"
    assert "invert it" in run("inspect", path).stdout


@pytest.mark.parametrize(
    ("size", "value", "because"),
    [((8, 8), 1, "label maps need 255"), ((8, 8), 90, "less than half"), ((8, 4), 255, "square")],
)
def test_what_cannot_be_a_mask_is_shown_with_the_cause(
    tmp_path: Path, size: tuple[int, int], value: int, because: str
) -> None:
    path = tmp_path / "m.png"
    Image.new("L", size, value).save(path)
    facts = said("inspect", path)
    assert (facts["kind"], facts["size"]) == ("mask", list(size))
    assert because in facts["refused"]["because"]
    assert facts["refused"]["hint"] in run("inspect", path).stdout
    assert "covered" not in facts


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.tiff"
    Image.new("L", (8, 8), 255).save(path)
    result = run("inspect", path)
    assert (result.exit_code, "is a TIFF image" in result.stderr) == (1, True)
    paint(tmp_path / "whole.png", 255)
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:20])
    result = run("inspect", cut)
    assert (result.exit_code, "damaged image" in result.stderr) == (1, True)
