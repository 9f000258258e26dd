"""Masks of the language as images: opened, drawn and checked.

Imports no torch. What needs numpy stands in `mask_spans`.
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image, ImageChops, ImageDraw

from editspec_compiler.modalities.image.mask_files import open_mask
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.mask_spans import Spans
from editspec_compiler.modalities.image.schema import (
    BoxMask,
    EllipseMask,
    Mask,
    PolygonMask,
    UnionMask,
)
from editspec_compiler.spec_folder import Folder

Shape = BoxMask | EllipseMask | PolygonMask

MANY = 64
"""Parts of a union that are always drawn one by one."""

DRAWN = 2**34
"""The most pixels that the parts of a union, each as large as the image, may have together."""

COSTLY = 32
"""How many times as long as a shape an image takes that is scaled to the size of the others."""


def mask_image(mask: Mask, folder: Folder, image_size: int, *, legacy: bool) -> Image.Image:
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


def require_sound(mask: Mask, folder: Folder, image_size: int, *, legacy: bool) -> None:
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


def _draw_mask(mask: Mask, folder: Folder, size: int, scale: int, *, legacy: bool) -> Image.Image:
    """Draw a mask as an image of `scale` times the size of the generator's."""
    side = size * scale
    if isinstance(mask, str):
        image = open_mask(mask, folder, legacy=legacy)
        return image.resize((side, side), Image.Resampling.BILINEAR)
    if isinstance(mask, UnionMask):
        return _draw_union(mask, folder, size, scale, legacy=legacy)
    if isinstance(mask, PolygonMask):
        return _draw_polygon(mask, size, scale)
    image = Image.new("L", (side, side))
    _draw_rectangle(image, mask, size, scale)
    return image


def _draw_union(
    mask: UnionMask, folder: Folder, size: int, scale: int, *, legacy: bool
) -> Image.Image:
    """Draw all shapes of a union on one image, each of them once.

    Polygons, and boxes where there are many, are kept as spans of rows: thousands of them may be as
    large as the image.
    """
    side = size * scale
    parts = list(_leaves(mask))
    image = Image.new("L", (side, side))
    spans: Spans | None = None
    done: set[object] = set()
    for part in parts:
        key = part if isinstance(part, str) else part.model_dump_json()
        if key in done:
            continue
        done.add(key)
        spanned = isinstance(part, PolygonMask) or (isinstance(part, BoxMask) and len(parts) > MANY)
        if spanned and spans is None:
            spans = Spans(side)
        if spans is not None and isinstance(part, PolygonMask):
            spans.add_polygon(_polygon_points(part, size, scale))
        elif spans is not None and isinstance(part, BoxMask):
            spans.add_box(*_corners(part, size, scale))
        elif isinstance(part, BoxMask | EllipseMask):
            # Ellipses that cover the same drawn pixels are one.
            place = (type(part), _corners(part, size, scale))
            if place not in done:
                done.add(place)
                _require_drawable(len(done), side)
                _draw_rectangle(image, part, size, scale)
        else:
            _require_drawable(len(done) * COSTLY, side)
            drawn = _draw_mask(part, folder, size, scale, legacy=legacy)
            image.paste(ImageChops.lighter(image, drawn))
    if spans is not None:
        image = ImageChops.lighter(image, spans.to_image())
    return image


def _leaves(mask: UnionMask) -> Iterator[str | Shape]:
    """The parts of a union, and of the unions in it."""
    for part in mask.union:
        if isinstance(part, UnionMask):
            yield from _leaves(part)
        else:
            yield part


def _require_drawable(count: int, side: int) -> None:
    """Raise `MaskError` where drawing so many parts takes long, each as large as the image."""
    if count > MANY and count * side**2 > DRAWN:
        raise MaskError(
            "the union has too many parts that are drawn one by one",
            "join them: paint one mask, or give polygons",
        )


def _draw_polygon(mask: PolygonMask, size: int, scale: int) -> Image.Image:
    spans = Spans(size * scale)
    spans.add_polygon(_polygon_points(mask, size, scale))
    return spans.to_image()


def _polygon_points(mask: PolygonMask, size: int, scale: int) -> list[tuple[float, float]]:
    """The corners of a polygon in drawn pixels. Raises `MaskError` where one lies outside."""
    ratio = scale * _picture_ratio(mask, size)
    points = []
    for point in mask.polygon:
        _require_inside(point, mask, size)
        x, y = point
        points.append((x * ratio, y * ratio))
    return points


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
