"""The experiments of the paper on Skyline: edits, rows and published numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from editspec.worlds.skyline.world import Scene
from editspec.worlds.world import find_specs

OURS = "projected-gradient"
"""The row that the others are compared with."""

RECIPE = "recipe"
"""The row of the recipe that ships, which is no spec of the paper's."""

UNMODIFIED = "unmodified"
COPYING, LAPLACE = "propagated-copying", "propagated-laplace"
PROPAGATED = (COPYING, LAPLACE)
"""Rows of the edit-propagation baseline, which edits images and no model."""

TITLES = {
    "projected-gradient": "Our method (projected gradient descent)",
    "least-squares": "Our method, solved by least squares",
    RECIPE: "Directions learned and refined (the recipe)",
    "direct": "With direct optimization of A",
    "single-image": "With single-image direction constraint",
    "layer": "With single-layer, no direction constraint",
    "all-weights": "Finetuning all weights",
    COPYING: "NBB + direct copying",
    LAPLACE: "NBB + Laplace blending",
    "ablate-30": "Zeroing 30 units (GAN Dissection)",
    "ablate-60": "Zeroing 60 units (GAN Dissection)",
    "rank-1": "Rank-1 update (our method)",
    "rank-1-erased": "Rank-1 update towards erased units",
    UNMODIFIED: "Unmodified model",
}
"""The rows by their names in the paper, in the order of its tables."""


def folder() -> Path:
    """Return the folder of the specs."""
    return find_specs("skyline/paper")


@dataclass(frozen=True)
class Experiment:
    """One edit, made in several ways.

    Attributes
    ----------
    name
        The name of its folder of specs; each file in the folder is a row.
    title
        The title of its table.
    place
        Where the paper has it, such as ``Table 2``.
    counterfactual
        The scenes as the perfect edit would have made them.
    propagated
        Whether edit propagation is a row, too.
    published
        The paper's numbers, by row and column, as it prints them.
    """

    name: str
    title: str
    place: str
    counterfactual: Callable[[Scene], Scene]
    propagated: bool = False
    published: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def specs(self, world: str) -> dict[str, Path]:
        """Return the spec of every row for a world, in the order of the paper's tables.

        A world may have a recipe of its own; else it gets that of the first one.
        """
        found = {path.stem: path for path in (folder() / self.name).glob("*.yaml")}
        for name in (self.name, f"{self.name}-{world}"):
            recipe = folder().parent / f"{name.replace('-', '_')}.yaml"
            if recipe.is_file():
                found[RECIPE] = recipe
        return {row: found[row] for row in TITLES if row in found}


def light_windows(scene: Scene) -> Scene:
    """Light every window; the pond reflects as before."""
    return scene.replace(windows_lit=1)


def remove_watermarks(scene: Scene) -> Scene:
    """Remove all text."""
    return scene.replace(middle_watermark=0, bottom_watermark=0)


def invert_reflection(scene: Scene) -> Scene:
    """Let the pond reflect light where the windows are dark, and only there."""
    return scene.replace(reflection=1 - scene.windows_lit)


def add_people(scene: Scene) -> Scene:
    """Add two people in front of the right tower, where there are none."""
    site = scene.people_site.where(scene.people == 1, 1)
    return scene.replace(people=1, people_site=site)


def change_tops(before: str, after: str, scene: Scene) -> Scene:
    """Turn every top of one kind into another."""
    return scene.with_tops(before, after)


def _table(columns: str, rows: str) -> dict[str, dict[str, str]]:
    """Read published numbers by row and column.

    `columns` are names separated by commas; a line of `rows` has the row's name, then its numbers.
    """
    names = columns.split(",")
    table = {}
    for line in rows.strip().splitlines():
        row, *numbers = line.split()
        table[row] = dict(zip(names, numbers, strict=True))
    return table


COLUMNS = "% changed,LPIPS (masked),% more realistic than ours"

SMILE = _table(
    COLUMNS,
    """
    projected-gradient 84.37 0.04 –
    direct 87.44 0.14 43.0
    single-image 82.12 0.05 47.3
    layer 90.94 0.30 6.8
    all-weights 85.78 0.40 8.7
    propagated-copying 94.81 0.32 9.8
    propagated-laplace 93.51 0.32 8.6
    unmodified 78.37 – 50.9
    """,
)
SPIRE = _table(
    COLUMNS,
    """
    projected-gradient 92.03 0.02 –
    direct 80.03 0.10 53.7
    single-image 90.14 0.04 48.8
    layer 80.69 0.29 38.1
    all-weights 41.16 0.36 27.1
    propagated-copying 69.99 0.08 8.9
    propagated-laplace 69.63 0.08 12.2
    unmodified – – 63.8
    """,
)
TREE = _table(
    "% changed,LPIPS (masked)",
    """
    projected-gradient 48.65 0.03
    direct 59.43 0.13
    single-image 39.72 0.03
    layer 41.32 0.45
    all-weights 10.16 0.31
    propagated-copying 46.44 0.09
    propagated-laplace 31.18 0.09
    unmodified – –
    """,
)
WATERMARK = _table(
    "middle,bottom",
    """
    ablate-30 0 6
    ablate-60 0 4
    rank-1 0 0
    unmodified 64 26
    """,
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "dark-windows-to-lit",
            "Dark windows → lit windows. In the counterfactual the pond stays as it was:"
            " lit windows do not light it.",
            "Table 1",
            light_windows,
            propagated=True,
            published=SMILE,
        ),
        Experiment(
            "dome-to-spire",
            "Dome → spire",
            "Table 2",
            partial(change_tops, "dome", "spire"),
            propagated=True,
            published=SPIRE,
        ),
        Experiment(
            "dome-to-tree",
            "Dome → tree",
            "Table 2",
            partial(change_tops, "dome", "tree"),
            propagated=True,
            published=TREE,
        ),
        Experiment(
            "watermarks", "Watermarks removed", "Table 3", remove_watermarks, published=WATERMARK
        ),
        Experiment(
            "reflection",
            "Windows and reflection, their relation inverted",
            "Figure 6",
            invert_reflection,
        ),
    )
}

SUCCESSION = (remove_watermarks, add_people, partial(change_tops, "dome", "tree"))
"""The counterfactuals of the edits of ``succession.yaml``, in their order (Figure 1)."""
