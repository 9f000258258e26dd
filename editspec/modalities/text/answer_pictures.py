"""Pictures of what models answer: a row for each, with a bar for a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

ROW, EDGE, BAR = 26, 12, 220
"""Pixels: the height of a row, the margin, and the width of a share of 1."""

SIZE = 14

INK, QUIET, POSITIVE, NEGATIVE = "#1a1a1a", "#555555", "#d9480f", "#1971c2"


@dataclass(frozen=True)
class Answer:
    """What follows a prompt.

    Attributes
    ----------
    label
        Which model answers.
    text, probability
        The text, and its probability.
    share
        The share of an edit in the change; None where the row has none.
    """

    label: str
    text: str
    probability: float
    share: float | None = None


def draw_answers(title: str, rows: Sequence[Answer]) -> Image.Image:
    """Draw answers below each other: who answers, what, how likely, and a share as a bar."""
    font = ImageFont.load_default(SIZE)
    cells = [
        (row.label, row.text.strip() or repr(row.text), f"{row.probability:.3g}") for row in rows
    ]
    widths = [
        max(int(font.getlength(cell)) for cell in column) for column in zip(*cells, strict=True)
    ]
    lefts = [EDGE]
    for width in widths:
        lefts.append(lefts[-1] + width + 2 * EDGE)
    least = min([0.0, *(row.share for row in rows if row.share is not None)])
    most = max([1.0, *(row.share for row in rows if row.share is not None)])
    scale = BAR / (most - least)
    zero = lefts[3] - least * scale
    width = max(lefts[3] + BAR + 60, int(font.getlength(title)) + 2 * EDGE)
    picture = Image.new("RGB", (int(width), (len(rows) + 1) * ROW + 2 * EDGE), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((EDGE, EDGE + ROW // 2), title, fill=INK, font=font, anchor="lm")
    for number, (row, texts) in enumerate(zip(rows, cells, strict=True), 1):
        middle = EDGE + number * ROW + ROW // 2
        for left, cell in zip(lefts, texts, strict=False):
            pen.text((left, middle), cell, fill=INK, font=font, anchor="lm")
        if row.share is None:
            continue
        end = zero + row.share * scale
        colour = POSITIVE if row.share >= 0 else NEGATIVE
        pen.rectangle((min(zero, end), middle - 8, max(zero, end), middle + 8), fill=colour)
        place = max(zero, end) + 6
        pen.text((place, middle), f"{row.share:.0%}", fill=QUIET, font=font, anchor="lm")
    return picture
