"""Tables as Markdown."""

from __future__ import annotations

from editspec.engine.table import Table
from editspec.views.text import markdown_text
from editspec_runtime.io.outputs import Output, marked_file

MARK = "<!-- editspec render -->"
ENDING = ".md"

TABLE_FILE: Output = marked_file(MARK.encode(), (ENDING,))
"""The kind of files that hold a table of ours."""


def table_markdown(table: Table) -> str:
    """A table as Markdown, with the mark that allows replacing its file."""
    lines = [MARK, _row(table.columns), "|" + "---|" * len(table.columns)]
    for row in table.rows:
        lines.append(_row(tuple(markdown_text(cell) for cell in row)))
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
