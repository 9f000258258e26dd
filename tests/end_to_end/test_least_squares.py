"""The recipes by least squares: never above projected gradient in the objective, within a budget,
and as one patch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

import editspec
from editspec.engine.built import BuiltEdit
from editspec.worlds.skyline import WEIGHTS
from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.least_squares import pose
from editspec_runtime.methods.registry import COLLATERAL_WEIGHT, METHODS
from tests.commands import said

ROOT = Path(__file__).parents[2]
RECIPES = ("dome_to_spire", "dark_windows_to_lit", "spire_to_tree")


def spec(folder: Path, recipe: str, solver: dict[str, Any]) -> Path:
    """The first edit of a recipe with another solver, and a small sample."""
    text = (ROOT / "tests" / "recipes" / f"{recipe}.yaml").read_text()
    content = yaml.safe_load(text.replace("../..", str(ROOT)))
    content["statistics"] = {"samples": 96}
    content["edits"] = [content["edits"][0] | {"solver": solver}]
    path = folder / f"{recipe}-{solver['method']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def built(path: Path) -> BuiltEdit:
    (edit,) = editspec.build(path, path.with_suffix("")).edits
    return edit


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_objective_is_not_above_that_of_projected_gradient(recipe: str, tmp_path: Path) -> None:
    ours = built(spec(tmp_path, recipe, {"method": "least-squares"}))
    path = spec(
        tmp_path, recipe, {"method": "projected-gradient", "steps": 400, "project_every": 1}
    )
    theirs = built(path)
    (found,) = editspec.statistics(path).moments
    layer, moment = found.layer, found.moment
    model = StyleGAN2(read_weights(WEIGHTS).tensors)
    parameter = model.layer(layer).parameter

    def objective(edit: BuiltEdit) -> float:
        directions: Tensor = edit.patch.directions[parameter]
        statistics = KeyStatistics(lambda: moment.matrix, lambda: pytest.fail("no sample"))
        (rule,) = edit.rule.rules
        layer_problem = LayerProblem(
            rule,
            model.function(layer),
            model.weight(layer),
            METHODS["least-squares"].make_settings(),
            statistics=statistics,
        )
        problem = pose(layer_problem, directions)
        unknowns = edit.patch.coefficients[parameter].double().flatten(1) @ problem.root
        return problem.objective(unknowns, COLLATERAL_WEIGHT).mean().item()

    assert objective(ours) < objective(theirs)
    assert ours.patch.metadata["solver"] == {
        "method": "least-squares",
        "collateral_weight": COLLATERAL_WEIGHT,
        "ridge": 0.01,
        "preserve_share": 0.8,
    }


def test_a_smaller_budget_leaves_more_loss(tmp_path: Path) -> None:
    losses = []
    for budget in (1e-4, 1e-3):
        path = spec(tmp_path, "dome_to_spire", {"method": "least-squares", "collateral": budget})
        (edit,) = said("build", path, "-o", tmp_path / f"{budget}")["edits"]
        losses.append(edit["loss"])
    assert losses[1] < losses[0]
