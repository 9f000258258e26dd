"""The experiments of the bench: specs, one of each method, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from editspec.worlds.world import find_specs

TITLES = {
    "rome": "ROME, an edit for each fact",
    "closed-form": "ROME's form, all at once",
    "memit": "MEMIT (least squares)",
    "alphaedit": "AlphaEdit (null space)",
    "unnamed": "ours, those who stay not named",
    "ours": "ours",
    "unprotected": "ours, nothing protected",
    "protected": "ours, protect: previous",
}
"""The rows by their names, in the order of the tables."""


def specs_folder() -> Path:
    """Return the folder of the specs."""
    return find_specs("atlas")


@dataclass(frozen=True)
class Experiment:
    """One task, done by several methods.

    Attributes
    ----------
    name
        The name of its folder of specs; each file in the folder is a row.
    title
        The title of its table.
    shipped
        The row and the file of the spec in ``specs/atlas`` that is a row, too.
    each
        Whether facts are edited one at a time, each on the unedited model.
    stepwise
        Whether measures are taken after each edit of a spec; else after the last one.
    """

    name: str
    title: str
    shipped: tuple[str, str]
    each: bool = False
    stepwise: bool = False

    @cached_property
    def specs(self) -> dict[str, Path]:
        """The spec of every row, in the order of the tables."""
        folder = specs_folder()
        found = {path.stem: path for path in (folder / "bench" / self.name).glob("*.yaml")}
        row, file = self.shipped
        found[row] = folder / file
        return {row: found[row] for row in TITLES if row in found}


EXPERIMENTS: Sequence[Experiment] = (
    Experiment("one", "One fact at a time", ("ours", "one_fact.yaml"), each=True),
    Experiment("hundred", "A hundred facts at once", ("ours", "hundred_facts.yaml")),
    Experiment(
        "ten",
        "Ten edits of ten facts, in succession",
        ("protected", "ten_edits.yaml"),
        stepwise=True,
    ),
)
