"""Masks as people paint them: each kind of file is read as it is meant, or refused for a cause."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from editspec_compiler.modalities.image.mask_areas import mask_area
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.schema import (
    BoxMask,
    EllipseMask,
    PolygonMask,
    UnionMask,
)

SIDE = 64
REGION = np.zeros((SIDE, SIDE), dtype=bool)
REGION[10:30, 20:50] = True

Make = Callable[[], Image.Image]


def grey(value: int = 255) -> Image.Image:
    return Image.fromarray((REGION * value).astype(np.uint8))


def palette(colours: list[tuple[int, int, int]], labels: NDArray[Any] = REGION) -> Image.Image:
    image = Image.new("P", (SIDE, SIDE))
    image.putdata(labels.astype(int).ravel().tolist())
    image.putpalette([part for colour in colours for part in colour])
    return image


def on_transparent(colour: Any, alpha: int = 255) -> Image.Image:
    pixels = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    pixels[REGION, :3] = colour
    pixels[REGION, 3] = alpha
    return Image.fromarray(pixels)


def in_colour(colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[REGION] = colour
    return Image.fromarray(pixels)


def photograph() -> NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, 256, (int(REGION.sum()), 3)).astype(np.uint8)


def encode(image: Image.Image, format_: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return url(buffer.getvalue())


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read(mask: Any, *, legacy: bool = False) -> NDArray[np.float64]:
    return mask_area(mask, Path(), SIDE, SIDE, legacy=legacy)


BLACK, WHITE, MAROON, RED = (0, 0, 0), (255, 255, 255), (128, 0, 0), (255, 0, 0)

READ: dict[str, Make] = {
    "grey": grey,
    "1 bit": lambda: Image.fromarray(REGION),
    "16 bits": lambda: Image.fromarray((REGION * 65535).astype(np.uint16)),
    "palette of black and white": lambda: palette([BLACK, WHITE]),
    "palette of white and black": lambda: palette([WHITE, BLACK], ~REGION),
    "palette of a label": lambda: palette([BLACK, MAROON]),
    "palette of a dark label": lambda: palette([BLACK, (1, 1, 1)]),
    "palette of a label on white": lambda: palette([WHITE, MAROON]),
    "palette in any order": lambda: palette([RED, BLACK], ~REGION),
    "palette of label 15": lambda: palette([BLACK] + 15 * [MAROON], 15 * REGION),
    "reduced colours": lambda: grey().convert("RGB").quantize(16),
    "white on transparent": lambda: on_transparent(WHITE),
    "black on transparent": lambda: on_transparent(BLACK),
    "red on transparent": lambda: on_transparent(RED),
    "a photograph cut out": lambda: on_transparent(photograph()),
    "alpha of a black picture": lambda: Image.merge("LA", (grey(0), grey())),
}


@pytest.mark.parametrize("name", READ)
def test_what_people_paint_is_read_as_they_mean_it(name: str) -> None:
    assert np.array_equal(read(encode(READ[name]())), REGION)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grey(1), "1 of 255: label maps need"),
        (lambda: grey(20), "20 of 255: label maps need"),
        (lambda: Image.fromarray(REGION.astype(np.uint16)), "1 of 65535: label maps need 65535"),
        (lambda: Image.fromarray((REGION * 4095).astype(np.uint16)), "4095 of 65535: less than"),
        (lambda: grey(126), "126 of 255: less than half"),
        (lambda: in_colour(RED), r"76 of 255: it is painted in the colour \(255, 0, 0\)"),
        (lambda: in_colour((0, 0, 255)), "painted in the colour"),
        (lambda: on_transparent(WHITE, 60), "60 of 255"),
        (lambda: palette([BLACK, MAROON, RED], REGION + np.eye(SIDE, dtype=int)), "2 labels"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_cause(make: Make, words: str) -> None:
    with pytest.raises(MaskError, match=words) as error:
        read(encode(make()))
    assert error.value.hint


@pytest.mark.parametrize("value", [127, 128, 255])
def test_from_half_on_a_mask_is_taken_as_it_is(value: int) -> None:
    assert np.allclose(read(encode(grey(value))), REGION * value / 255)


def test_the_authors_take_the_red_channel_however_dark_it_is() -> None:
    assert np.allclose(read(encode(grey(1)), legacy=True), REGION / 255)
    assert np.array_equal(read(encode(in_colour(RED)), legacy=True), REGION)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_as_its_exif_data_say(format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = grey().rotate(90, expand=True).convert("RGB")
    upright = read(encode(lying, format_, exif=exif, quality=100))
    assert np.array_equal(upright > 0.5, REGION)
    assert not np.array_equal(read(encode(lying, format_)) > 0.5, REGION)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP"])
def test_a_film_is_refused(format_: str) -> None:
    first, second = grey().convert("RGB"), grey().rotate(90).convert("RGB")
    with pytest.raises(MaskError, match="film of 2 frames"):
        read(encode(first, format_, save_all=True, append_images=[second]))
    assert np.array_equal(read(encode(first, format_)) > 0.5, REGION)


def test_the_small_copy_in_a_photograph_makes_it_no_film() -> None:
    picture = grey().convert("RGB")
    data = encode(picture, "MPO", save_all=True, append_images=[picture.resize((8, 8))])
    assert np.array_equal(read(data) > 0.5, REGION)


FOREIGN = {
    "a TIFF image": b"II*\0\x08\0\0\0",
    "an AVIF image": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "a HEIC image": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="1"/>',
    "a Photoshop document": b"8BPS\0\x01",
    "a GIMP document": b"gimp xcf v011\0",
    "a Krita document": b"PK\x03\x04" + bytes(22) + b"\x08\0\0\0mimetypeapplication/x-krita",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a PostScript drawing": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "a JPEG XL image": b"\xff\x0a\xfa\x1f",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "an OpenEXR image": b"v/1\x01\x02\0\0\0",
    "an icon": b"\0\0\x01\0\x01\0",
    "a PNM image": b"P5\n64 64\n255\n",
    "a video": b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2",
    "a numpy array": b"\x93NUMPY\x01\0v\0",
    "a JSON text": b'{"shapes": [{"label": "dome"}]}',
    "a web page": b"<!DOCTYPE html>\n<html><svg/></html>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an empty file": b"",
    "not an image": b"\x01\x02\x03\x04",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(FOREIGN[name])
    with pytest.raises(MaskError, match=f"mask.png is {name}") as error:
        mask_area("mask.png", tmp_path, SIDE, SIDE, legacy=False)
    assert error.value.hint
    with pytest.raises(MaskError, match=f"the data URL is {name}"):
        read(url(FOREIGN[name]))


def test_a_data_url_may_be_broken_into_lines_or_escaped() -> None:
    plain = encode(grey())
    head, text = plain.split(",")
    lines = "\n  ".join(text[start : start + 40] for start in range(0, len(text), 40))
    escaped = text.replace("+", "%2B").replace("=", "%3D")
    for written in (plain, f"{head},{lines}\n", f"{head},{escaped}"):
        assert np.array_equal(read(written), REGION)
    with pytest.raises(MaskError, match="not base64"):
        read(f"{head},*{text}")


def test_shapes_of_a_picture_of_another_size() -> None:
    large = [1024, 1024]
    box, ellipse = BoxMask(box=[160, 160, 480, 800]), EllipseMask(ellipse=[160, 160, 480, 800])
    corners = [[160, 160], [480, 160], [480, 800]]
    for scaled, drawn in (
        (box.model_copy(update={"of": large}), BoxMask(box=[10, 10, 30, 50])),
        (ellipse.model_copy(update={"of": large}), EllipseMask(ellipse=[10, 10, 30, 50])),
        (
            PolygonMask(polygon=corners, of=large),
            PolygonMask(polygon=[[10, 10], [30, 10], [30, 50]]),
        ),
    ):
        assert np.array_equal(read(scaled), read(drawn))
        beside = BoxMask(box=[40, 2, 60, 12])
        one, other = UnionMask(union=[scaled, beside]), UnionMask(union=[drawn, beside])
        assert np.array_equal(read(one), read(other))
    small = BoxMask(box=[1, 1, 3, 5], of=[6.4, 6.4])  # smaller than the model's images
    assert np.array_equal(read(small), read(BoxMask(box=[10, 10, 30, 50])))
    with pytest.raises(MaskError, match="160 lies outside") as error:
        read(box)
    assert "of: [1024, 1024]" in error.value.hint
