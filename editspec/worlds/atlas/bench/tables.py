"""The results of the bench of facts: values, plain data for JSON, and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from editspec.engine.intervals import Estimates
from editspec.engine.result import CommandResult, to_plain
from editspec.worlds.atlas.bench.answers import FIRST, MEASURES, OTHERS, PARAPHRASES

FORMAT = "editspec.facts"

LEGEND = (
    "Every number is the share of prompts whose likeliest next token is right. The world has 592"
    " facts, each with three phrasings. The edited prompts: those that the spec names, with the new"
    " answer. Other phrasings: the other two of the same facts. Other facts of the subject, and"
    " facts of the same surname: of people who are edited, and of others who share the last name"
    " with one of them; their answers are to stay, as those of all other facts are. In brackets:"
    " intervals of 95 % by bootstrap over facts, or over subjects where many facts are edited."
)


@dataclass(frozen=True)
class RowResult:
    """The measures of one method.

    Attributes
    ----------
    row, title
        Its name, and what tables call it.
    n
        How many facts were edited.
    measures
        The shares by the names of `MEASURES`, with their intervals.
    steps
        The same after each edit of a succession; empty where there is one edit.
    """

    row: str
    title: str
    n: int
    measures: Estimates
    steps: tuple[Estimates, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``facts.json`` holds them."""
        return {
            "row": self.row,
            "title": self.title,
            "n": self.n,
            **self.measures.numbers,
            "intervals": to_plain(self.measures.intervals),
            "steps": [dict(step.numbers) for step in self.steps],
        }


@dataclass(frozen=True)
class TableResult:
    """The measures of one experiment."""

    experiment: str
    title: str
    rows: tuple[RowResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``facts.json`` holds them."""
        rows = [row.to_dict() for row in self.rows]
        return {"experiment": self.experiment, "title": self.title, "rows": rows}


@dataclass(frozen=True)
class FactsResult(CommandResult):
    """The measures of the bench of facts.

    Attributes
    ----------
    facts
        How many facts are edited one at a time.
    base
        The digest of the unedited weights.
    tables
        One of every experiment.
    """

    facts: int
    base: str
    tables: tuple[TableResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``facts.json``."""
        tables = [table.to_dict() for table in self.tables]
        return {
            "format": FORMAT,
            "version": 1,
            "facts": self.facts,
            "base": self.base,
            "tables": tables,
        }

    def to_text(self) -> str:
        """Write the tables as Markdown."""
        lines = ["# Facts on Atlas", "", f"Base weights `{self.base}`.", "", LEGEND]
        for table in self.tables:
            lines += ["", f"## {table.title}", "", *_table_lines(table)]
            if any(row.steps for row in table.rows):
                lines += ["", *_step_lines(table)]
        return "\n".join(lines) + "\n"


def _table_lines(table: TableResult) -> list[str]:
    succession = any(row.steps for row in table.rows)
    names = [name for name in MEASURES if succession or name != FIRST]
    lines = [_line(["method", *(MEASURES[name] for name in names)])]
    lines.append("|---" + "|---:" * len(names) + "|")
    for row in table.rows:
        lines.append(_line([row.title, *(_share(row.measures, name) for name in names)]))
    return lines


def _step_lines(table: TableResult) -> list[str]:
    """The first edit's facts and all other facts after each edit."""
    count = max(len(row.steps) for row in table.rows)
    lines = [_line(["after edit", *map(str, range(1, count + 1))]), "|---" + "|---:" * count + "|"]
    for row in table.rows:
        for name in (FIRST, PARAPHRASES, OTHERS):
            shares = [f"{step.numbers[name]:.1%}" for step in row.steps]
            lines.append(_line([f"{row.title}: {MEASURES[name]}", *shares]))
    return lines


def _share(measures: Estimates, name: str) -> str:
    value = measures.numbers.get(name)
    if value is None:
        return "–"
    if name not in measures.intervals:
        return f"{value:.1%}"
    low, high = measures.intervals[name]
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
