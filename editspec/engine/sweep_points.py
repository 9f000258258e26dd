"""The points of a sweep: their measures as values and as a table, and the best of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editspec.engine.intervals import Interval
from editspec.engine.result import to_plain

OF_JSON_ALONE = ("intervals", "problem", "trace-")
"""The beginnings of the names of a point's values that are in no column of the table."""

WITH_INTERVALS = ("efficacy", "recovered", "outside", "trace")
"""The columns of the table that have intervals beside the values; the JSON has all."""

PREDICTIONS = ("independent", "correlated")
"""The kinds of predicted collateral that a patch states for each of its layers."""


@dataclass(frozen=True)
class SweepPoint:
    """One layer and rank of a sweep.

    Attributes
    ----------
    layer, rank
        The layer and the rank of the last edit; no rank where its edits have none.
    varied
        The values of other fields of the last edit, by their paths.
    numbers
        The measures by name: ``loss``, ``efficacy``, ``outside``, the predicted collateral,
        ``trace``, ``strong``, ``seconds`` and, for an experiment, ``error`` and more. Empty where
        the edit cannot be built.
    intervals
        The interval of 95 % of each measure that is taken over images.
    problem
        The reason why the edit cannot be built; empty where it was built.
    """

    layer: str
    rank: int | None
    varied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The point as plain values."""
        whole: dict[str, Any] = {"layer": self.layer, "rank": self.rank}
        if self.rank is None:
            del whole["rank"]
        whole |= {**self.varied, **self.numbers}
        if self.intervals:
            whole["intervals"] = to_plain(self.intervals)
        if self.problem:
            whole["problem"] = self.problem
        return whole

    def label(self) -> str:
        """The rank and the values of other fields, for people."""
        parts = [] if self.rank is None else [f"rank {self.rank}"]
        parts += [f"{path.rpartition('.')[2]} {value}" for path, value in self.varied.items()]
        return ", ".join(parts)


def pick_winner(points: Sequence[SweepPoint]) -> SweepPoint:
    """The point of least ``error`` where that is known, else the best trade.

    An error counts twice where every image has a visible artefact (``trace``), and in between in
    proportion. The best trade is the point farthest above the line from zero to the largest
    efficacy and the largest change outside, less its trace.
    """
    if "error" in points[0].numbers:
        return min(points, key=lambda point: point.numbers["error"] * (1 + _trace_of(point)))
    best = max(point.numbers["efficacy"] for point in points) or 1.0
    most = max(point.numbers["outside"] for point in points) or 1.0

    def height(point: SweepPoint) -> float:
        """The height above the line, less the trace."""
        above = point.numbers["efficacy"] / best - point.numbers["outside"] / most
        return above - _trace_of(point)

    return max(points, key=height)


def _trace_of(point: SweepPoint) -> float:
    """The share of images with a visible artefact; 0 where it is not known."""
    return point.numbers.get("trace", 0.0)


def rank_correlation(points: Sequence[SweepPoint], one: str, other: str) -> float | None:
    """Spearman's correlation of two measures; None for fewer than three points, or equal ones."""
    if len(points) < 3:
        return None
    ranks = []
    for name in (one, other):
        values = torch.tensor([point.numbers[name] for point in points])
        if bool((values == values[0]).all()):
            return None
        # The rank of each value: where it stands in the sorted order.
        ranks.append(values.argsort().argsort().double())
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def tabulate_points(points: Sequence[SweepPoint], winner: SweepPoint) -> list[str]:
    """The lines of a table of Markdown: a row for each point, with a remark."""
    rows = [point.to_dict() for point in points]
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in columns if not name.startswith(OF_JSON_ALONE)]
    lines = ["| " + " | ".join(names) + " | |", "|" + "---|" * (len(names) + 1)]
    for point, row in zip(points, rows, strict=True):
        intervals = {name: point.intervals.get(name) for name in WITH_INTERVALS}
        cells = [_format_cell(row.get(name), intervals.get(name)) for name in names]
        remark = "winner" if point is winner else point.problem
        lines.append("| " + " | ".join([*cells, remark]) + " |")
    return lines


def _format_cell(value: Any, interval: Interval | None) -> str:
    if value is None:
        return "–"
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    if interval is None:
        return shown
    low, high = interval
    return f"{shown} ({low:.4f} to {high:.4f})"
