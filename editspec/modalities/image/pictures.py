"""Pictures made of images: grids, highlights, and PNG files with a mark."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.outputs import IN_THE_WAY, Output, name_ending

MARK = "editspec"
"""The text chunk of a PNG that editspec made."""

SOFTWARE = 0x0131
"""The tag of EXIF that has the mark in other formats than PNG."""


@dataclass(frozen=True)
class Encoding:
    """A format besides PNG, its settings, and the most pixels of a side."""

    format: str
    longest: int
    settings: dict[str, Any]


JPEG = Encoding("JPEG", 65535, {"quality": 95, "subsampling": 0})
ENCODINGS = {
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": Encoding("WEBP", 16383, {"lossless": True}),
}
"""The formats of pictures by the endings of their names; PNG is the usual one."""

FORMATS = ("PNG", "JPEG", "WEBP")

COLUMNS = 8
CELL = 128
"""Pixels up to which a small image is enlarged, by a whole factor."""

MARGIN = 56
GAP = 6


def before_and_after(
    before: Tensor, after: Tensor, labels: tuple[str, str] = ("before", "after")
) -> Image.Image:
    """Draw two batches of images [n, 3, size, size] in -1..1, `before` above `after`."""
    size = before.shape[-1] * max(1, CELL // before.shape[-1])
    columns = min(COLUMNS, len(before))
    blocks = math.ceil(len(before) / columns)
    height = blocks * (2 * size + 3 * GAP) + GAP
    picture = Image.new("RGB", (MARGIN + columns * (size + GAP), height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(14)
    for block in range(blocks):
        top = GAP + block * (2 * size + 3 * GAP)
        for row, (label, images) in enumerate(zip(labels, (before, after), strict=True)):
            y = top + row * (size + GAP)
            draw.text((MARGIN - GAP, y + size // 2), label, fill="black", font=font, anchor="rm")
            for column, image in enumerate(images[block * columns : (block + 1) * columns]):
                tile = to_image(image).resize((size, size), Image.Resampling.NEAREST)
                picture.paste(tile, (MARGIN + column * (size + GAP), y))
    return picture


def spotlight(images: Tensor, light: Tensor) -> Tensor:
    """Darken images where `light` is low.

    Images are [n, 3, size, size] in -1..1, `light` is [n, h, w] in 0..1.
    """
    size = images.shape[-1]
    wide = torch.nn.functional.interpolate(light[:, None], size=(size, size), mode="nearest")
    return (images.clamp(-1, 1) + 1) * (0.15 + 0.85 * wide) - 1


def heat(images: Tensor, light: Tensor) -> Tensor:
    """Draw images in grey, from red to yellow where `light` is high.

    Images are [n, 3, size, size] in -1..1, `light` is [n, h, w] in 0..1.
    """
    size = images.shape[-1]
    share = torch.nn.functional.interpolate(light[:, None], size=(size, size), mode="nearest")
    grey = 0.15 + 0.55 * (images.clamp(-1, 1) + 1).mean(1, keepdim=True) / 2
    colour = torch.cat([torch.ones_like(share), 0.1 + 0.75 * share, 0.1 * share], dim=1)
    covered = 0.8 * share  # the image stays visible where the colour is strongest
    return 2 * (grey * (1 - covered) + colour * covered) - 1


def stack_pictures(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures below each other."""
    width = max(picture.width for picture in pictures)
    height = sum(picture.height for picture in pictures)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def to_image(image: Tensor) -> Image.Image:
    """Convert an image [3, h, w] in -1..1 to 8 bits a channel."""
    levels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as a small PNG without a mark."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(image: Image.Image) -> str:
    """Encode an image as a data URL, for a spec or a report in place of a file."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as a PNG with the mark of editspec, which allows replacing it."""
    info = PngImagePlugin.PngInfo()
    info.add_text(MARK, "picture")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def picture_bytes(image: Image.Image, path: Path) -> bytes:
    """Encode an image with the mark, as the ending of its path says; without one as a PNG.

    Raises `FileError` where the format cannot hold an image of this size.
    """
    encoding = ENCODINGS.get(name_ending(path))
    if encoding is None:
        return png_bytes(image)
    if max(image.size) > encoding.longest:
        raise FileError(
            f"{path} cannot be written: the picture is {image.width} x {image.height} pixels, and "
            f"a {name_ending(path)} has at most {encoding.longest} a side.",
            "Give a name that ends in .png.",
        )
    mark = Image.Exif()
    mark[SOFTWARE] = MARK
    buffer = io.BytesIO()
    image.save(buffer, encoding.format, exif=mark, **encoding.settings)
    return buffer.getvalue()


def is_own_picture(path: Path) -> bool:
    """Whether the file at `path` is a picture that editspec made."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return MARK in image.info or image.getexif().get(SOFTWARE) == MARK
    except (OSError, UnidentifiedImageError, ValueError):
        return False


def enlarge(picture: Image.Image) -> Image.Image:
    """Enlarge a small picture by a whole factor to at most `CELL` pixels."""
    factor = max(1, CELL // picture.width)
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def arrange(pictures: Sequence[Image.Image]) -> Image.Image:
    """Arrange pictures of one size side by side, in rows of up to `COLUMNS`."""
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    size = (GAP + columns * (width + GAP), GAP + rows * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


PICTURE = Output(
    is_own_picture, f"{IN_THE_WAY}editspec did not make it.", endings=(".png", *ENCODINGS)
)


def require_free_picture(out: Path) -> None:
    """Raise an error where no picture can go to `out`.

    Raises
    ------
    FileError
        A file lies there that editspec did not draw.
    UsageError
        Its ending is none of a picture that is written here.
    """
    PICTURE.require_free(out)
