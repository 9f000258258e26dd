"""The chart of a sweep: the efficacy of each point against its change outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN, RADIUS = 640, 60, 4


@dataclass(frozen=True)
class Dot:
    """A point of the chart; the `best` one is red."""

    label: str
    outside: float
    efficacy: float
    best: bool = False


def draw_sweep(dots: Sequence[Dot]) -> Image.Image:
    """Draw a dot for each point: efficacy upwards, the change outside to the right."""
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    most = max(dot.outside for dot in dots) or 1.0
    low = min(0.0, *(dot.efficacy for dot in dots))
    _draw_axes(draw, font, f"outside change, 0 to {most:.4f}", f"efficacy, {low:.0%} to 100%")
    length = SIZE - 2 * MARGIN
    for dot in dots:
        x = MARGIN + dot.outside / most * length
        y = SIZE - MARGIN - (dot.efficacy - low) / (1 - low) * length
        _draw_dot(draw, font, dot, x, y)
    return picture


def _draw_axes(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, x: str, y: str
) -> None:
    corner = (MARGIN, SIZE - MARGIN)
    draw.line((MARGIN, MARGIN, *corner, SIZE - MARGIN, SIZE - MARGIN), fill="black")
    draw.text((SIZE // 2, SIZE - MARGIN // 3), x, fill="black", font=font, anchor="mm")
    draw.text((MARGIN, MARGIN // 2), y, fill="black", font=font, anchor="lm")


def _draw_dot(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    dot: Dot,
    x: float,
    y: float,
) -> None:
    colour = "red" if dot.best else "black"
    draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour)
    # Near the right edge the label would leave the picture, so it stands to the left.
    crowded = x > SIZE - 2.5 * MARGIN
    anchor, gap = ("rs", -6) if crowded else ("ls", 6)
    draw.text((x + gap, y - RADIUS), dot.label, fill=colour, font=font, anchor=anchor)
