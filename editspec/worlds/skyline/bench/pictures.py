"""The picture of a table: the same images, as every row edits them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from editspec.modalities.image.pictures import GAP, to_image

LABEL = 280
"""Pixels of the column of names."""

CELL = 96
"""Pixels a side of an image."""


def draw_rows(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Draw rows of images [n, 3, size, size] in -1..1, each with its name to the left."""
    size = CELL + GAP
    longest = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (LABEL + longest * size, len(rows) * size + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for row, (label, images) in enumerate(rows):
        y = GAP + row * size
        draw.text((LABEL - 2 * GAP, y + CELL // 2), label, fill="black", font=font, anchor="rm")
        for column, image in enumerate(images):
            tile = to_image(image).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(tile, (LABEL + column * size, y))
    return sheet
