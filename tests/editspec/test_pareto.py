"""`build --pareto`: the choice of collateral_weight as numbers, a picture, and lines for the
spec.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import Result

from editspec_runtime.patches.patch import read_patch
from tests.commands import run


def build(folder: Path, solver: Any, *options: str, **fields: Any) -> Result:
    """A build of one edit of Skyline in `folder`/out."""
    place = {"latent": 5, "mask": {"box": [8, 4, 22, 22]}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "builtin:skyline"},
        "statistics": {"samples": 32},
        "edits": [
            {
                "name": "e",
                "layer": "layer6",
                "source": {**place, "latent": 6},
                "target": place,
                "solver": solver,
                **fields,
            }
        ],
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return run("build", folder / "spec.yaml", "-o", folder / "out", *options)


def test_a_point_is_picked_by_its_number(tmp_path: Path) -> None:
    result = build(tmp_path, "least-squares", "--pareto")
    assert result.exit_code == 0, result.stderr
    first = read_patch(tmp_path / "out" / "patches" / "01-e.safetensors").metadata
    (curve,) = json.loads((tmp_path / "out" / "pareto.json").read_text())["curves"]
    points = curve["points"]
    assert [point["number"] for point in points] == list(range(1, len(points) + 1))
    for point, next_ in pairwise(points):
        assert next_["collateral_weight"] < point["collateral_weight"]
        assert next_["loss"] <= point["loss"]
        assert next_["residual"] <= point["residual"]
        assert next_["collateral"] >= point["collateral"]
    with Image.open(tmp_path / "out" / "pareto.png") as picture:
        assert picture.format == "PNG"
    # The line of a number gives that point, and once more the same bytes.
    chosen = points[len(points) // 3]  # not that of the default weight, which has a star
    (line,) = [
        line for line in result.stdout.splitlines() if line.split()[:1] == [str(chosen["number"])]
    ]
    solver = yaml.safe_load(line[line.index("solver:") :])["solver"]
    (built,) = json.loads(build(tmp_path, solver, "--json").stdout)["edits"]
    # One quantity has one number: what is built is what the point says, to the last digit.
    assert {name: built[name] for name in ("loss", "residual")} == {
        name: chosen[name] for name in ("loss", "residual")
    }
    assert built["collateral"]["layer6"]["correlated"] == chosen["collateral"]
    assert built["loss"] != points[0]["loss"]
    again = read_patch(tmp_path / "out" / "patches" / "01-e.safetensors").metadata
    assert again["content"] != first["content"]
    # What this build did not make is gone.
    assert not (tmp_path / "out" / "pareto.json").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"directions": "learned"},
        {"rank": "full"},
        {"preserve": [{"latent": 7}], "refine": {"steps": 1}},
    ],
    ids=["learned", "full", "refined"],
)
def test_what_is_another_change_for_each_weight_has_no_curve(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    for options in (["--pareto"], ["--pick", "3"], ["--pick", "e=3"]):
        result = build(tmp_path, "least-squares", *options, **fields)
        assert result.exit_code == 2
        assert "learned, of full rank or refined" in result.stderr
        assert "editspec sweep" in result.stderr


def test_other_methods_have_no_choice(tmp_path: Path) -> None:
    result = build(tmp_path, {"method": "direct", "steps": 3}, "--pareto")
    assert result.exit_code == 2
    assert "solved by least-squares, and this spec has none" in result.stderr
    assert build(tmp_path, {"method": "direct", "steps": 3}).exit_code == 0


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ({"collateral_weight": 1e30}, "Lower solver.collateral_weight"),
        ({"collateral": 1e-300}, "Raise solver.collateral"),
    ],
)
def test_what_leaves_nothing_to_change_is_named_with_its_setting(
    setting: dict[str, float], hint: str, tmp_path: Path
) -> None:
    result = build(tmp_path, {"method": "least-squares", **setting})
    assert result.exit_code == 1
    assert "the edit would change nothing" in result.stderr
    assert hint in result.stderr
    assert "learning rate" not in result.stderr
