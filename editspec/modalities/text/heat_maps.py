"""Heat maps over tokens and layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = 13
ROW, EDGE, GAP = 24, 14, 30
"""Pixels: the height of a cell, the margin, and the space between two grids."""

LEAST_WIDTH = 40
"""The least width of a cell in pixels."""

NUMBERED = 16
"""The number of columns up to which cells show their numbers."""

INK, QUIET, MARKED = "#1a1a1a", "#555555", "#b02a00"
POSITIVE, NEGATIVE = (160, 40, 0), (20, 80, 160)


@dataclass(frozen=True)
class Grid:
    """A table of shares with its caption: a row for each token, a column for each layer."""

    caption: str
    shares: Sequence[Sequence[float]]


def colour_of(share: float) -> tuple[int, int, int]:
    """The colour of a share: white for 0, red for 1 and more, blue for what is negative."""
    full = POSITIVE if share >= 0 else NEGATIVE
    strength = min(abs(share), 1.0)
    red, green, blue = (round(255 + (each - 255) * strength) for each in full)
    return red, green, blue


def percent(share: float) -> str:
    """A share in hundredths, without the sign of a zero."""
    return f"{round(100 * share)}"


def is_dark(share: float) -> bool:
    """Whether white letters are to be read on the colour of a share."""
    return abs(share) > 0.55


def draw_grids(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    grids: Sequence[Grid],
    marked: Collection[int] = (),
) -> Image.Image:
    """Draw grids side by side, whose `marked` rows are written in another colour."""
    font = ImageFont.load_default(SIZE)
    label = max(int(font.getlength(row)) for row in rows) + EDGE
    numbered = len(columns) <= NUMBERED
    widest = max(int(font.getlength(column)) for column in columns) + 8
    cell = max(LEAST_WIDTH, widest) if numbered else 16
    wide = [max(len(columns) * cell, int(font.getlength(grid.caption))) for grid in grids]
    width = EDGE + label + sum(wide) + GAP * len(grids)
    width = max(width, int(font.getlength(title)) + 2 * EDGE)
    picture = Image.new("RGB", (width, 2 * EDGE + (len(rows) + 3) * ROW), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((EDGE, EDGE + ROW // 2), title, fill=INK, font=font, anchor="lm")
    top = EDGE + 2 * ROW
    for number, row in enumerate(rows):
        colour = MARKED if number in marked else INK
        place = (EDGE + label - 8, top + number * ROW + ROW // 2)
        pen.text(place, row, fill=colour, font=font, anchor="rm")
    left = EDGE + label
    for grid, extent in zip(grids, wide, strict=True):
        pen.text((left, top - ROW // 2), grid.caption, fill=INK, font=font, anchor="lm")
        _draw_cells(pen, font, grid, (left, top), cell, numbered=numbered)
        _draw_columns(pen, font, columns, (left, top + len(rows) * ROW), cell, numbered=numbered)
        left += extent + GAP
    return picture


def _draw_cells(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    grid: Grid,
    corner: tuple[int, int],
    cell: int,
    *,
    numbered: bool,
) -> None:
    left, top = corner
    for number, shares in enumerate(grid.shares):
        for column, share in enumerate(shares):
            x, y = left + column * cell, top + number * ROW
            frame = (x, y, x + cell - 2, y + ROW - 2)
            pen.rectangle(frame, fill=colour_of(share), outline="#e4e4e4")
            if numbered:
                ink = "white" if is_dark(share) else INK
                middle = (x + cell // 2, y + ROW // 2)
                pen.text(middle, percent(share), fill=ink, font=font, anchor="mm")


def _draw_columns(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    columns: Sequence[str],
    corner: tuple[int, int],
    cell: int,
    *,
    numbered: bool,
) -> None:
    """Write the names of columns below them; of narrow ones every fifth as a number."""
    left, top = corner
    for number, column in enumerate(columns):
        middle = (left + number * cell + cell // 2, top + ROW // 2)
        if numbered:
            pen.text(middle, column, fill=QUIET, font=font, anchor="mm")
        elif number % 5 == 0:
            pen.text(middle, f"{number}", fill=QUIET, font=font, anchor="mm")
