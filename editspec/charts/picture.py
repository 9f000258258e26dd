"""Charts as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from editspec.charts.scatter import (
    NO_MARKER,
    RADIUS,
    TEXT,
    Drawing,
    Line,
    Marker,
    Scatter,
    Text,
    lay_out,
)

SCALE, FINER = 2, 2
"""Pixels for a unit of the drawing, and how many times as fine it is drawn, for smooth edges."""

INK, QUIET, PALE, FRONT = "#1a1a1a", "#555555", "#e4e4e4", "#8a8a8a"

LINES = {"axis": (QUIET, 1.0), "rule": (PALE, 1.0), "front": (FRONT, 2.0), "leader": (FRONT, 0.7)}
"""The colour and the width of lines."""

LETTERS = {
    "title": (INK, 16),
    "axis": (INK, TEXT),
    "tick": (QUIET, TEXT - 1),
    "label": (INK, TEXT),
    "picked": (INK, TEXT),
}
"""The colour and the size of texts."""

ANCHORS = {"start": "lm", "middle": "mm", "end": "rm"}


def draw_scatters(charts: Sequence[Scatter]) -> Image.Image:
    """Draw charts, each below the one before."""
    pictures = [draw_picture(lay_out(chart)) for chart in charts]
    height = sum(picture.height for picture in pictures)
    whole = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def draw_picture(drawing: Drawing) -> Image.Image:
    """Draw one chart in pixels, on white."""
    size = (drawing.frame.width * SCALE, drawing.frame.height * SCALE)
    fine = Image.new("RGB", (size[0] * FINER, size[1] * FINER), "white")
    pen = ImageDraw.Draw(fine)
    for line in drawing.lines:
        _draw_line(pen, line)
    for marker in drawing.markers:
        _draw_marker(pen, marker)
    for text in drawing.texts:
        _draw_text(pen, text)
    return fine.resize(size, Image.Resampling.LANCZOS)


def _fine(value: float) -> float:
    return value * SCALE * FINER


def _draw_line(pen: ImageDraw.ImageDraw, line: Line) -> None:
    colour, width = LINES[line.kind]
    ends = (_fine(line.x1), _fine(line.y1), _fine(line.x2), _fine(line.y2))
    pen.line(ends, fill=colour, width=round(_fine(width)))


def _draw_marker(pen: ImageDraw.ImageDraw, marker: Marker) -> None:
    x, y, r = _fine(marker.x), _fine(marker.y), _fine(RADIUS)
    if marker.picked:
        ring = 1.7 * r
        pen.ellipse((x - ring, y - ring, x + ring, y + ring), outline=INK, width=round(_fine(1.5)))
    edge = round(_fine(0.75))
    if marker.colour == NO_MARKER[1]:
        return
    if marker.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), marker.colour, "white", edge)
        return
    corners = [(_fine(across), _fine(down)) for across, down in marker.corners]
    pen.polygon(corners, marker.colour, "white", edge)


def _draw_text(pen: ImageDraw.ImageDraw, text: Text) -> None:
    colour, size = LETTERS[text.kind]
    font = ImageFont.load_default(_fine(size))
    heavy = round(_fine(0.3)) if text.kind in ("title", "picked") else 0
    place = (_fine(text.x), _fine(text.y))
    anchor = ANCHORS[text.anchor]
    pen.text(
        place,
        text.text,
        fill=colour,
        font=font,
        anchor=anchor,
        stroke_width=heavy,
        stroke_fill=colour,
    )
