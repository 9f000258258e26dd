"""Masks of the language as images: opened, drawn and checked.

Imports no torch, and numpy for polygons alone: `validate` of most specs starts without it.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, ImageChops, ImageDraw, UnidentifiedImageError

from editspec_compiler.document import reading_problem
from editspec_compiler.modalities.image.schema import (
    BoxMask,
    EllipseMask,
    Mask,
    PolygonMask,
    UnionMask,
)

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 16 * 2**20
"""The most pixels of a mask: 4096 x 4096. A pixel takes up to 8 bytes while it is decoded."""

DECODED = 8
"""The masks of files and data URLs that are kept decoded, as places often share one."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The formats that are decoded. PIL knows more, such as EPS, for which it runs Ghostscript."""

SMALLER = "save the mask smaller: it is scaled to the layer's resolution anyway"


class MaskError(Exception):
    """Mask that cannot be used: what is wrong with it, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def mask_image(mask: Mask, folder: Path, image_size: int, *, legacy: bool) -> Image.Image:
    """Open or draw a mask as an 8-bit grey image of any size, white inside.

    Parameters
    ----------
    mask
        A file name or data URL, or shapes.
    folder
        What file names are relative to.
    image_size
        Side of the generator's (square) images in pixels.
    legacy
        Decode image files as the authors did: alpha is dropped, and the red channel counts.

    Raises
    ------
    MaskError
        The mask is missing, no image, damaged, too large, of another aspect, outside of the image,
        or empty.
    """
    if isinstance(mask, str):
        image = _open_mask(mask, folder, legacy=legacy)
    else:
        scale = _shape_scale(image_size, legacy=legacy)
        image = _draw_mask(mask, folder, image_size, scale, legacy=legacy)
    if image.getbbox() is None:
        raise MaskError(
            "the mask is empty: nothing in it is white and opaque", "paint the region that is meant"
        )
    return image


def require_sound(mask: Mask, folder: Path, image_size: int, *, legacy: bool) -> None:
    """Raise a `MaskError` as `mask_image` does, and draw nothing where numbers tell.

    A union may have thousands of rectangles.
    """
    if isinstance(mask, (BoxMask, EllipseMask)):
        _corners(mask, image_size, _shape_scale(image_size, legacy=legacy))
    else:
        mask_image(mask, folder, image_size, legacy=legacy)


def _shape_scale(image_size: int, *, legacy: bool) -> int:
    """How many times as large as the image shapes are drawn."""
    # Larger, so that a position that is covered in part counts in part: up to 4096 pixels, for the
    # memory. The masks of the authors are of whole pixels.
    return 1 if legacy else max(1, min(8, 4096 // image_size))


def _open_mask(mask: str, folder: Path, *, legacy: bool) -> Image.Image:
    """Decode the image of a file name or data URL; it is shared, so never drawn on."""
    if mask.startswith("data:"):
        return _decode_url_once(mask, legacy)
    path = folder / mask
    if why := reading_problem(path):
        raise MaskError(why, "paths are relative to the spec")
    state = path.stat()
    # A file that is replaced, or written again, is decoded again.
    return _decode_path_once(path, legacy, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=DECODED)
def _decode_path_once(path: Path, legacy: bool, state: tuple[int, ...]) -> Image.Image:
    """Decode a file; `state` tells its versions apart."""
    with path.open("rb") as file:
        return _decode_file(str(path), file, legacy=legacy)


@lru_cache(maxsize=DECODED)
def _decode_url_once(url: str, legacy: bool) -> Image.Image:
    return _decode_file("the data URL", io.BytesIO(_decode_url(url)), legacy=legacy)


def _decode_file(name: str, file: BinaryIO, *, legacy: bool) -> Image.Image:
    """Decode an image file; `name` stands in messages. Raises `MaskError`."""
    try:
        with warnings.catch_warnings():
            # Of large images, which are refused, and of odd palettes.
            warnings.simplefilter("ignore")
            image = _require_square(Image.open(file, formats=FORMATS), name)
            image.load()
            return _to_grey(image, legacy=legacy)
    except MaskError:
        raise
    except Image.DecompressionBombError as error:
        message = f"{name} has far too many pixels; the most is {MAX_PIXELS}"
        raise MaskError(message, SMALLER) from error
    except UnidentifiedImageError as error:
        raise MaskError(f"{name} is not an image", f"masks are {', '.join(FORMATS)}") from error
    except Exception as error:  # PIL's readers meet damage with errors of many kinds
        raise MaskError(f"{name} is a damaged image", "save it again") from error


def _require_square(image: ImageFile, name: str) -> ImageFile:
    """Return an image that can be a mask; only its header has been read so far."""
    if image.width * image.height > MAX_PIXELS:
        raise MaskError(
            f"{name} has {image.width} x {image.height} pixels; the most is {MAX_PIXELS}", SMALLER
        )
    if image.width != image.height:
        raise MaskError(
            f"{name} has {image.width} x {image.height} pixels, and the model's images are square",
            "paint masks on images that the model made (any size will do)",
        )
    return image


def _decode_url(url: str) -> bytes:
    head, _, text = url.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        message = "a data URL of a mask is an image in base64"
        raise MaskError(message, "begin it with data:image/png;base64,")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        hint = "copy the whole of it: base64 has letters, digits, +, / and ends in up to two ="
        raise MaskError("the data URL is not base64", hint) from error


def _to_grey(image: Image.Image, *, legacy: bool) -> Image.Image:
    """Convert an image to 8-bit grey: white and opaque is inside.

    `legacy` drops alpha and takes the red channel.
    """
    if legacy:
        return image.convert("RGB").getchannel(0)
    if image.mode.startswith("I"):
        # 16 bits: 65535 = 255 * 257. PIL itself would cut off all above 255.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return ImageChops.multiply(rgba.convert("RGB").convert("L"), rgba.getchannel("A"))
    return image.convert("L")


def _draw_mask(mask: Mask, folder: Path, size: int, scale: int, *, legacy: bool) -> Image.Image:
    """Draw a mask as an image of `scale` times the size of the generator's."""
    side = size * scale
    if isinstance(mask, str):
        image = _open_mask(mask, folder, legacy=legacy)
        return image.resize((side, side), Image.Resampling.BILINEAR)
    image = Image.new("L", (side, side))
    if isinstance(mask, UnionMask):
        _draw_union(image, mask, folder, size, scale, legacy=legacy)
    elif isinstance(mask, PolygonMask):
        image = _draw_polygon(mask, size, scale)
    else:
        _draw_rectangle(image, mask, size, scale)
    return image


def _draw_union(
    image: Image.Image, mask: UnionMask, folder: Path, size: int, scale: int, *, legacy: bool
) -> None:
    """Draw all shapes of a union on one image, which is not copied for each of them."""
    for part in mask.union:
        if isinstance(part, (BoxMask, EllipseMask)):
            _draw_rectangle(image, part, size, scale)
        elif isinstance(part, UnionMask):
            _draw_union(image, part, folder, size, scale, legacy=legacy)
        else:
            drawn = _draw_mask(part, folder, size, scale, legacy=legacy)
            image.paste(ImageChops.lighter(image, drawn))


def _draw_polygon(mask: PolygonMask, size: int, scale: int) -> Image.Image:
    for point in mask.polygon:
        _require_inside(point, size)
    image = _fill_polygon([(x * scale, y * scale) for x, y in mask.polygon], size * scale)
    if image.getbbox() is None:
        raise MaskError("the polygon has no area", "give corners that do not lie on one line")
    return image


def _draw_rectangle(image: Image.Image, mask: BoxMask | EllipseMask, size: int, scale: int) -> None:
    """Draw a rectangle on an image, or the ellipse inside of it."""
    left, top, right, bottom = _corners(mask, size, scale)
    draw = ImageDraw.Draw(image)
    paint = draw.rectangle if isinstance(mask, BoxMask) else draw.ellipse
    paint((left, top, right - 1, bottom - 1), fill=255)  # PIL counts both ends in


def _corners(mask: BoxMask | EllipseMask, size: int, scale: int) -> tuple[int, int, int, int]:
    """The left, top, right and bottom of a shape in drawn pixels. Raises `MaskError`."""
    corners = mask.box if isinstance(mask, BoxMask) else mask.ellipse
    _require_inside(corners, size)
    left, top, right, bottom = (round(corner * scale) for corner in corners)
    if right <= left or bottom <= top:
        numbers = ", ".join(f"{corner:g}" for corner in corners)
        raise MaskError(f"[{numbers}] has no area", "the order is left, top, right, bottom")
    return left, top, right, bottom


def _fill_polygon(points: list[tuple[float, float]], side: int) -> Image.Image:
    """Fill the pixels whose centres lie inside a polygon, by the even-odd rule.

    PIL's own polygon draws the outline, too, which would spill over into the neighbouring
    positions.
    """
    import numpy as np

    # Only the rows and columns that the polygon reaches: a union may have thousands of small ones.
    left, right = _span([x for x, _ in points], side)
    top, bottom = _span([y for _, y in points], side)
    rows = np.arange(top, bottom) + 0.5
    crossings = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    # A mark where each edge crosses a row's centre line; the running xor along the row is 1 inside.
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        crossed = (rows >= min(y0, y1)) & (rows < max(y0, y1))
        x = x0 + (rows[crossed] - y0) * (x1 - x0) / ((y1 - y0) or 1)
        crossings[crossed, np.ceil(x - 0.5).astype(int) - left] ^= 1
    filled = np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1] * np.uint8(255)
    image = Image.new("L", (side, side))
    if filled.size:
        image.paste(Image.fromarray(filled), (left, top))
    return image


def _span(numbers: list[float], side: int) -> tuple[int, int]:
    """The first pixel that coordinates reach, and the one behind the last."""
    first = max(0, math.floor(min(numbers)) - 1)
    return first, min(side, math.ceil(max(numbers)) + 1)


def _require_inside(numbers: list[float], size: int) -> None:
    outside = [number for number in numbers if not 0 <= number <= size]
    if outside:
        raise MaskError(
            f"{outside[0]:g} lies outside of the image, which has {size} x {size} pixels",
            "give output pixels",
        )
