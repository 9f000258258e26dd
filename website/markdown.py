"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cell(text: str | None) -> str:
    """Write a text as the cell of a table, as one sentence or several."""
    line = " ".join((text or "").split()).replace("|", "\\|")
    return line if not line or line.endswith((".", "?", "!")) else f"{line}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table whose cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
