"""Builds whose seconds the benchmarks take: by the command, C kept, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.projects import Project
from editspec.engine.solving import solve


@pytest.mark.slow
def test_each_build_solves_again_with_the_second_moment_of_the_first(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    save_file(make_tiny(), tmp_path / "base.safetensors")
    place = {"latent": 1, "mask": {"box": [8, 8, 20, 20]}}
    project = Project(
        tmp_path,
        {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "base.safetensors"},
            "statistics": {"samples": 20},
            "edits": [
                {"name": "e", "layer": "layer5", "source": place, "target": {**place, "latent": 2}}
            ],
        },
    )
    solver = {"method": "least-squares"}
    (first, moment), (second, again) = ((project.build(solver), moments(project)) for _ in range(2))
    assert moment == again
    assert first["digest"] == second["digest"]
    for edit in first, second:
        assert edit["status"] == "new"
        assert edit["seconds"]["solve"] > 0
    # What is not forgotten is not solved again.
    (edit,) = solve(project.write_spec(solver), device="cpu", cache=project.cache)
    assert edit.seconds["solve"] == 0


def moments(project: Project) -> dict[str, int]:
    """Every second moment in the cache, and when it was written."""
    return {
        path.name: path.stat().st_mtime_ns for path in (project.cache.root / "statistics").iterdir()
    }
