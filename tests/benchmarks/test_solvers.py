"""The edits whose solvers are timed: a whole layer, and ranks. Nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.solvers import PAIRS, PRESERVED, WHOLE, make_skyline_task, make_whole_project
from editspec_runtime.patches.patch import read_patch


@pytest.mark.slow
def test_the_whole_layer_preserves_what_the_recipe_does(tmp_path: Path) -> None:
    (edit,) = make_whole_project(tmp_path / "whole").spec["edits"]
    assert (len(edit["pairs"]), len(edit["preserve"])) == (PAIRS, PRESERVED)
    masks = [row["target"]["mask"] for row in edit["pairs"]]
    assert masks.count("masks/left-tower.png") == masks.count("masks/right-tower.png")
    project = make_whole_project(tmp_path / "few", pairs=2, preserved=2, samples=96)
    built = project.build(WHOLE, threads=1)
    # Its moments are included, and the patch is a whole weight.
    assert built["seconds"]["statistics"] > 0
    assert read_patch(project.patch).metadata["rank"] is None


def test_the_yardstick_has_as_many_directions_as_the_rank(tmp_path: Path) -> None:
    for rank in (1, 3):
        (tmp_path / str(rank)).mkdir()
        task = make_skyline_task(tmp_path / str(rank), rank)
        assert task.name == f"Skyline layer6 rank {rank}"
        assert len(task.directions()) == rank
