"""Masks of the language as images: opened, drawn and checked.

Imports no torch, and numpy for polygons alone: `validate` of most specs starts without it.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from editspec_compiler.modalities.image.mask_files import open_mask
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.schema import (
    BoxMask,
    EllipseMask,
    Mask,
    PolygonMask,
    UnionMask,
)

Shape = BoxMask | EllipseMask | PolygonMask


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
        image = open_mask(mask, folder, legacy=legacy)
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


def _draw_mask(mask: Mask, folder: Path, size: int, scale: int, *, legacy: bool) -> Image.Image:
    """Draw a mask as an image of `scale` times the size of the generator's."""
    side = size * scale
    if isinstance(mask, str):
        image = open_mask(mask, folder, legacy=legacy)
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
    ratio = scale * _picture_ratio(mask, size)
    points = []
    for point in mask.polygon:
        _require_inside(point, mask, size)
        x, y = point
        points.append((x * ratio, y * ratio))
    image = _fill_polygon(points, size * scale)
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
    _require_inside(corners, mask, size)
    ratio = scale * _picture_ratio(mask, size)
    left, top, right, bottom = (round(corner * ratio) for corner in corners)
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


def _picture_ratio(mask: Shape, size: int) -> float:
    """Output pixels per pixel of the picture that a shape was drawn on. Raises `MaskError`."""
    if mask.of is None:
        return 1
    width, height = mask.of
    if width != height:
        raise MaskError(
            f"the shape is of a picture of {width:g} x {height:g} pixels, and the model's images "
            "are square",
            "draw shapes on pictures of the model (any size will do)",
        )
    return size / width


def _require_inside(numbers: list[float], mask: Shape, size: int) -> None:
    """Raise `MaskError` unless all coordinates lie on the picture that a shape is of."""
    side = size if mask.of is None else mask.of[0]
    outside = [number for number in numbers if not 0 <= number <= side]
    if not outside:
        return
    what = "image" if mask.of is None else "picture that it is of"
    message = f"{outside[0]:g} lies outside of the {what}, which has {side:g} x {side:g} pixels"
    hint = "give pixels of that picture"
    if mask.of is None:
        hint = (
            "give output pixels, or say what size the picture had that this was drawn on, such as "
            "of: [1024, 1024]"
        )
    raise MaskError(message, hint)
