"""The yardstick of the benchmarks is the paper's own way: held against the authors' numbers, and
against our solver.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benchmarks import yardstick
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.maths.low_rank import delta
from editspec_runtime.methods.layer_problem import LayerProblem
from editspec_runtime.methods.projected_gradient import find_coefficients
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.image.compatibility import EDITSPEC, REWRITING_2020
from editspec_runtime.patches.patch import read_patch
from tests.commands import run

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("layer", ["layer7", "layer8"])
def test_it_gives_the_change_of_projected_gradient_under_the_compatibility_switch(
    layer: str,
    golden_spec: Callable[..., dict[str, Any]],
    golden: dict[str, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    spec = golden_spec(layer, {"method": "projected-gradient", "steps": 101})
    (tmp_path / "golden.json").write_text(json.dumps(spec))
    result = run("build", tmp_path / "golden.json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    edit = read_rule(tmp_path / "out" / "rules" / "01-golden.safetensors")
    (rule,) = edit.rules
    (directions,) = read_patch(
        tmp_path / "out" / "patches" / "01-golden.safetensors"
    ).directions.values()
    weights = {
        name: tensor.double()
        for name, tensor in read_weights(GOLDEN / "sg2_g_ema.safetensors").tensors.items()
    }
    model = StyleGAN2(weights, compatibility=REWRITING_2020)
    function, weight = model.function(layer), model.weight(layer)
    found = yardstick.solve(function, weight, rule, edit.method, directions)

    def solve(compatibility: Compatibility) -> Tensor:
        problem = LayerProblem(rule, function, weight, edit.method, compatibility=compatibility)
        return delta(find_coefficients(problem, directions), directions)

    ours = solve(REWRITING_2020)
    assert (found - ours).norm() < 1e-10 * ours.norm()
    if layer == "layer8":
        wanted = golden["sg2_edits_f64"]["L8.proj.rank1.delta"]
        assert (found - wanted).norm() < 1e-10 * wanted.norm()
    # Our own way, which returns the best iterate, is another.
    best = solve(EDITSPEC)
    assert (found - best).norm() > 1e-2 * ours.norm()
