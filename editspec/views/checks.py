"""The rows of checks as a table for a terminal, as Markdown and as JUnit XML."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from editspec.engine.checks import FAILED, PASSED, WARNED, CheckRow
from editspec.views.text import markdown_text
from editspec_compiler.problems import visible
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import marked_file

COLUMNS = ("", "check", "edit", "value", "bound", "severity", "")
STYLES = {PASSED: "green", WARNED: "yellow", FAILED: "red"}

MARKDOWN_MARK = "<!-- editspec check -->"
JUNIT_NAME = "editspec check"
JUNIT_HEAD = f"<?xml version='1.0' encoding='utf-8'?>\n<testsuites name=\"{JUNIT_NAME}\"".encode()


def checks_table(rows: Sequence[CheckRow], width: int = 120, *, colours: bool = False) -> str:
    """The rows as a table for a terminal."""
    if not rows:
        return "no checks"
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [escape(visible(cell)) for cell in _cells(row)]
        table.add_row(f"[{STYLES[row.status]}]{row.status}[/]", *cells)
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=colours, no_color=not colours, highlight=False
    )
    console.print(table)
    # Rich fills cells with spaces up to the width of their column.
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def checks_markdown(rows: Sequence[CheckRow]) -> str:
    """The rows as a table of Markdown."""
    if not rows:
        return f"{MARKDOWN_MARK}\nThe spec has no checks.\n"
    lines = [MARKDOWN_MARK, "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        status = row.status if row.status == PASSED else f"**{row.status}**"
        cells = [markdown_text(cell) for cell in _cells(row)]
        lines.append("| " + " | ".join((status, *cells)) + " |")
    return "\n".join(lines) + "\n"


def checks_junit(rows: Sequence[CheckRow], spec: Path) -> bytes:
    """The rows as JUnit XML.

    JUnit knows no warnings: a check that warned is a test that passed and says so.
    """
    failures = sum(row.status == FAILED for row in rows)
    counts = {"tests": str(len(rows)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": JUNIT_NAME, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": visible(spec.name), **counts})
    for row in rows:
        _add_case(suite, row)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add_case(suite: ElementTree.Element, row: CheckRow) -> None:
    name, edit, value, bound, _, detail = map(visible, _cells(row))
    case = ElementTree.SubElement(suite, "testcase", classname=edit, name=name)
    said = f"{row.measure} of {edit}: {value}, expected {bound}"
    if detail:
        said += f" ({detail})"
    if row.status == FAILED:
        ElementTree.SubElement(case, "failure", type=row.measure, message=said)
        return
    out = ElementTree.SubElement(case, "system-out")
    out.text = f"warning: {said}" if row.status == WARNED else said


def _cells(row: CheckRow) -> Iterator[str]:
    """The cells of a row behind its status."""
    side, limit = row.bound
    yield row.name
    yield row.edit or "all"
    yield "-" if row.value is None else _number(row.value)
    yield f"{side} {_number(limit)}"
    yield row.severity
    yield row.detail


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


@dataclass(frozen=True)
class CheckFiles:
    """The files that rows are written into; None: not written."""

    junit: Path | None = None
    markdown: Path | None = None

    @staticmethod
    def of(junit: Path | str | None, markdown: Path | str | None) -> CheckFiles:
        """The files at these paths."""
        junit = None if junit is None else Path(junit)
        markdown = None if markdown is None else Path(markdown)
        return CheckFiles(junit, markdown)

    def require_places(self) -> None:
        """Raise an error where something lies there that no check wrote, or a name ends wrongly.

        To be called before the work, not after it.
        """
        if self.junit is not None:
            marked_file(JUNIT_HEAD, (".xml",)).require_free(self.junit)
        if self.markdown is not None:
            endings = (".md", ".markdown", ".txt")
            marked_file(MARKDOWN_MARK.encode(), endings).require_free(self.markdown)

    def write(self, rows: Sequence[CheckRow], spec: Path) -> None:
        """Write the rows of a spec."""
        if self.junit is not None:
            write(self.junit, checks_junit(rows, spec))
        if self.markdown is not None:
            write(self.markdown, checks_markdown(rows).encode())
