"""The results of a bench: values, plain data for JSON, and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editspec.engine.intervals import Interval
from editspec.engine.result import CommandResult, to_plain
from editspec.worlds.skyline.bench.experiments import OURS

FORMAT = "editspec.bench"

SETTINGS = ("layer", "rank", "steps")
"""The settings of a row that are printed."""

COLUMNS = {
    "efficacy": ".1%",
    "recovered": ".1%",
    "within_quarter": ".1%",
    "read": ".1%",
    "outside": ".4f",
    "outside_99": ".3f",
    "trace": ".1%",
    "strong": ".1%",
    "untouched_trace": ".1%",
    "untouched_outside": ".4f",
    "perceptual": ".4f",
    "distance": ".3f",
    "closer_than_ours": ".1%",
    "middle": "d",
    "bottom": "d",
    "correlation": "+.2f",
    "n": "d",
    "seconds": ".2f",
}
"""The columns of a table in their order, and how their numbers are printed."""

HEADINGS = {
    "within_quarter": "within a quarter",
    "outside_99": "outside, 99 %",
    "untouched_trace": "trace, untouched",
    "untouched_outside": "outside, untouched",
    "closer_than_ours": "closer",
}
"""Headings that are not the names of their columns."""

WITH_INTERVALS = ("efficacy", "recovered", "outside", "trace", "untouched_trace")
"""The columns whose intervals are printed; ``bench.json`` has all."""

LEGEND = (
    "efficacy: of the pixels that the perfect edit changes, the share that ends closer to it than"
    " to the original. recovered: 1 - |y - x*| / |x - x*| over these pixels, x being the picture"
    " before the edit, y after it, x* the perfect one. within a quarter: the share of these pixels"
    " of which at most a quarter of |x - x*| is left. read: the share of the images with something"
    " to change whose attributes are read as changed. outside: mean absolute change of all other"
    " pixels, -1..1; 99 %: its 99th percentile in an image, averaged. trace: the share"
    " of the images with a visible artefact: 4 connected pixels or more that change by more than"
    " 0.1 where the perfect edit changes nothing, and away from it; strong: by more than 0.2."
    " untouched: of the images that the perfect edit leaves as they are."
    " perceptual: the change outside in features. distance: to the perfect edit, over the pixels"
    " that it changes. closer: the"
    " share of the images with something to change that end closer to the perfect edit than ours"
    " do. seconds: for the edit, its statistics left out; of propagation, for an image. In"
    " brackets: intervals of 95 % by bootstrap over images; bench.json has one for every column."
)


@dataclass(frozen=True)
class RowResult:
    """The measures of one way to make an edit.

    Attributes
    ----------
    row, title
        Its name, and its name in the paper.
    n
        Images that were measured.
    numbers
        The measures by the names of `edit_ratios`, and more of some experiments.
    intervals
        Their intervals of 95 %, by bootstrap over images.
    seconds
        The time of the edit without its statistics; of propagation, the time of one image.
    settings
        Layer, rank and settings of the solver.
    published
        The paper's numbers by column, as it prints them.
    """

    row: str
    title: str
    n: int
    numbers: Mapping[str, float]
    intervals: Mapping[str, Interval]
    seconds: float | None
    settings: Mapping[str, Any]
    published: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``bench.json`` holds them."""
        return {
            "row": self.row,
            "title": self.title,
            "n": self.n,
            **self.numbers,
            "intervals": to_plain(self.intervals),
            "seconds": self.seconds,
            "settings": dict(self.settings),
            "published": dict(self.published),
        }


@dataclass(frozen=True)
class TableResult:
    """The measures of one experiment."""

    experiment: str
    place: str
    title: str
    rows: tuple[RowResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``bench.json`` holds them."""
        return {
            "experiment": self.experiment,
            "place": self.place,
            "title": self.title,
            "rows": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class Retention:
    """How well one edit shows after another, which follows it or is itself."""

    edit: str
    after: str
    n: int
    numbers: Mapping[str, float]
    intervals: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``bench.json`` holds them."""
        whole = {"edit": self.edit, "after": self.after, "n": self.n, **self.numbers}
        return {**whole, "intervals": to_plain(self.intervals)}


@dataclass(frozen=True)
class SuccessionResult:
    """The efficacy of edits after those that follow them."""

    place: str
    edits: tuple[str, ...]
    retention: tuple[Retention, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``bench.json`` holds them."""
        return {
            "place": self.place,
            "edits": list(self.edits),
            "retention": [entry.to_dict() for entry in self.retention],
        }


@dataclass(frozen=True)
class BenchResult(CommandResult):
    """The measures of a bench.

    Attributes
    ----------
    images
        How many images a row is measured on, at the most.
    base
        The digest of the unedited weights.
    features, features_digest
        The features that measure the perceptual change: their name and their digest.
    tables
        One of every experiment.
    succession
        None until it is measured.
    """

    images: int
    base: str
    features: str
    features_digest: str
    tables: tuple[TableResult, ...] = ()
    succession: SuccessionResult | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``bench.json``."""
        whole = {
            "format": FORMAT,
            "version": 1,
            "images": self.images,
            "base": self.base,
            "features": {"name": self.features, "digest": self.features_digest},
            "ours": OURS,
            "tables": [table.to_dict() for table in self.tables],
        }
        if self.succession is not None:
            whole["succession"] = self.succession.to_dict()
        return whole

    def to_text(self) -> str:
        """Write the tables as Markdown: our numbers, and the paper's next to them."""
        lines = [
            "# The paper's tables on Skyline",
            "",
            f"{self.images:,} images at the most; n is printed. "
            f"Features of {self.features} (`{self.features_digest}`), base weights `{self.base}`.",
            "",
            LEGEND,
        ]
        for table in self.tables:
            lines += ["", f"## {table.place}: {table.title}", "", *_table_lines(table.rows)]
        if self.succession is not None:
            title = "## Figure 1: a succession of edits"
            lines += ["", title, "", *_retention_lines(self.succession)]
        return "\n".join(lines) + "\n"


def _table_lines(rows: Sequence[RowResult]) -> list[str]:
    values = [row.to_dict() for row in rows]
    measured = {name for value in values for name in value}
    columns = {name: form for name, form in COLUMNS.items() if name in measured}
    # A dict keeps the order in which the rows name their columns.
    published = list(dict.fromkeys(name for row in rows for name in row.published))
    names = ["method", *SETTINGS, *(HEADINGS.get(name, name) for name in columns)]
    names += [f"paper: {name}" for name in published]
    left = 1 + len(SETTINGS)
    lines = [_line(names), "|---" * left + "|---:" * (len(names) - left) + "|"]
    for row, value in zip(rows, values, strict=True):
        cells = [row.title, *(str(row.settings.get(name, "–")) for name in SETTINGS)]
        for name, form in columns.items():
            interval = row.intervals.get(name) if name in WITH_INTERVALS else None
            cells.append(_format_cell(value.get(name), form, interval))
        cells += [row.published.get(name, "") for name in published]
        lines.append(_line(cells))
    return lines


def _retention_lines(succession: SuccessionResult) -> list[str]:
    names = succession.edits
    found = {(entry.edit, entry.after): entry for entry in succession.retention}
    headings = ["efficacy of", *(f"after {name}" for name in names)]
    lines = [_line(headings), "|---" * len(headings) + "|"]
    for edit in names:
        cells = [edit]
        for after in names:
            entry = found.get((edit, after))
            cells.append("" if entry is None else f"{entry.numbers['efficacy']:.1%}")
        lines.append(_line(cells))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _format_cell(value: Any, form: str, interval: Interval | None) -> str:
    if value is None:
        return "–"
    shown = format(value, form)
    if interval is None:
        return shown
    low, high = (format(end, form) for end in interval)
    return f"{shown} ({low} to {high})"
