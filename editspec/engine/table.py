"""A table of what models make of inputs, before and after edits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Attributes
    ----------
    columns
        The names of the columns.
    rows
        The texts of each row, one for each column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
