"""The picture of the bench of facts: a bar for each share, with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from editspec.charts.scatter import MARKERS
from editspec.worlds.atlas.bench.answers import FIRST, MEASURES
from editspec.worlds.atlas.bench.tables import RowResult, TableResult

LABEL, COLUMN, BAR = 260, 210, 150
"""Pixels of the column of names, of a column of bars, and of a bar that is full."""

HEAD, ROW, GAP, MARGIN = 64, 34, 22, 20
"""Pixels of the head of a table, of a row, between tables and around all."""

GOOD, POOR = (colour for _, colour in MARKERS[:2])
"""Colours of a share of at least `ENOUGH`, and of a smaller one, which everybody tells apart."""

LINE, TEXT = "#202020", "#202020"
"""Colours of intervals and of text."""

ENOUGH = 0.95

KEY = "Shares of right answers: blue from 95 % on, orange below. Whiskers: intervals of 95 %."
LEGEND = 24
"""Pixels of the line that explains the bars."""


def draw_tables(tables: Sequence[TableResult]) -> Image.Image:
    """Draw the shares of every row of every table."""
    height = 2 * MARGIN + LEGEND
    for table in tables:
        height += HEAD + ROW * len(table.rows) + GAP
    width = 2 * MARGIN + LABEL + COLUMN * len(MEASURES)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = MARGIN
    for table in tables:
        names = _columns_of(table)
        draw.text((MARGIN, top), table.title, fill=TEXT, font=ImageFont.load_default(20))
        for column, name in enumerate(names):
            x = MARGIN + LABEL + column * COLUMN
            font = ImageFont.load_default(15)
            draw.text((x, top + HEAD - 10), MEASURES[name], fill=TEXT, font=font, anchor="ls")
        top += HEAD
        for row in table.rows:
            _draw_row(draw, row, names, top)
            top += ROW
        top += GAP
    draw.text((MARGIN, top), KEY, fill=TEXT, font=ImageFont.load_default(15))
    return picture


def _columns_of(table: TableResult) -> list[str]:
    """The measures of a table; those of the first edit where others follow it."""
    succession = any(row.steps for row in table.rows)
    return [name for name in MEASURES if succession or name != FIRST]


def _draw_row(draw: ImageDraw.ImageDraw, row: RowResult, names: Sequence[str], top: int) -> None:
    middle = top + ROW // 2
    font = ImageFont.load_default(15)
    draw.text((MARGIN, middle), row.title, fill=TEXT, font=font, anchor="lm")
    for column, name in enumerate(names):
        value = row.measures.numbers.get(name)
        if value is None:
            continue
        x = MARGIN + LABEL + column * COLUMN
        colour = GOOD if value >= ENOUGH else POOR
        draw.rectangle((x, middle - 9, x + BAR, middle + 9), outline="#d0d0d0")
        draw.rectangle((x, middle - 9, x + round(BAR * value), middle + 9), fill=colour)
        if name in row.measures.intervals:
            low, high = (x + round(BAR * end) for end in row.measures.intervals[name])
            draw.line((low, middle, high, middle), fill=LINE, width=2)
            for end in (low, high):
                draw.line((end, middle - 5, end, middle + 5), fill=LINE, width=2)
        draw.text((x + BAR + 8, middle), f"{value:.0%}", fill=TEXT, font=font, anchor="lm")
