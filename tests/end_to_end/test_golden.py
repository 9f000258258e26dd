"""The authors' numbers, from a spec to the patch, through `editspec build`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from editspec_runtime.families.open import read_weights
from editspec_runtime.families.proggan.network import ProgressiveGAN
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.methods.solve_edit import loss_of
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

CASES = {
    "L8.proj.rank1": ("layer8", {"method": "projected-gradient", "steps": 101}),
    "L6.linear.rank1": ("layer6", {"method": "direct", "steps": 101}),
    "L6.erase.rank1": ("layer6", {"method": "projected-gradient", "steps": 101}),
}


def built(spec: dict[str, Any], folder: Path) -> Tensor:
    (folder / "golden.json").write_text(json.dumps(spec, indent="\t"))
    (edit,) = said("build", folder / "golden.json", "-o", folder / "out")["edits"]
    patch = read_patch(Path(edit["patch"]))
    return patch.delta(next(iter(patch.directions)))


@pytest.mark.parametrize("case", CASES)
def test_the_change_of_the_weight_is_the_authors(
    case: str,
    golden_spec: Callable[..., dict[str, Any]],
    golden: dict[str, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    spec = golden_spec(*CASES[case])
    if "erase" in case:
        spec["edits"][0]["source"] = {"erase": {"units": 30}}
    wanted = golden["sg2_edits_f64"][f"{case}.delta"][0]
    found = built(spec, tmp_path)
    assert (found - wanted).norm() / wanted.norm() < 1e-10


def test_the_change_of_a_progressive_gan_is_the_authors(
    golden_spec: Callable[..., dict[str, Any]], golden: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    spec = golden_spec("layer6", {"method": "projected-gradient", "steps": 101}, family="proggan")
    wanted = golden["pg_edits_f64"]["L6.proj.rank1.delta"]
    found = built(spec, tmp_path)
    assert (found - wanted).norm() / wanted.norm() < 1e-10
    (rule,) = read_rule(tmp_path / "out" / "rules" / "01-golden.safetensors").rules
    for tensor, name in ((rule.key[:, :, 1:-1, 1:-1], "goal_in"), (rule.value, "goal_out")):
        stage = golden["pg_stages_f64"][f"L6.{name}"]
        assert (tensor - stage).norm() / stage.norm() < 1e-10


def reflection_spec(golden_spec: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Bright and dim reflections swapped, over scenes that differ in their windows alone (section
    5.3).
    """
    masks = json.loads((Path(__file__).parents[1] / "golden" / "reflection.json").read_text())

    def scene(number: str, windows: float) -> dict[str, Any]:
        units = [3, 7, 11, 19, 23, 31, 40, 44]
        change = {
            "layer": "layer4",
            "units": units,
            "value": windows,
            "mask": masks[number]["intervention"],
        }
        return {"latent": int(number), "intervene": change}

    spec = golden_spec(
        "layer6", {"method": "low-rank", "steps": 30, "learning_rate": 0.01}, family="proggan"
    )
    edit = {name: spec["edits"][0][name] for name in ("name", "layer", "rank", "solver")}
    edit["observe"] = "layer8"
    edit["pairs"] = [
        {
            "source": scene(number, other),
            "target": scene(number, own) | {"mask": masks[number]["revert"]},
        }
        for own, other in ((10.0, -5.0), (-5.0, 10.0))
        for number in masks
    ]
    return spec | {"edits": [edit]}


def test_the_reflection_experiment_is_the_authors(
    golden_spec: Callable[..., dict[str, Any]], golden: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    found = built(reflection_spec(golden_spec), tmp_path)
    numbers = golden["pg_edits_f64"]
    (rule,) = read_rule(tmp_path / "out" / "rules" / "01-golden.safetensors").rules
    for index, state in ((0, "high"), (4, "low")):
        # They kept what was to be seen as float32.
        wanted = numbers[f"refl.{state}_target.img0.first8"]
        assert (rule.value[index : index + 1, :8].float().double() - wanted).abs().max() < 1e-10
    wanted = numbers["refl.rank1.delta"]
    assert (found - wanted).norm() / wanted.norm() < 1e-10


def test_a_reflection_that_is_not_swapped_has_nothing_to_change(
    golden_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    spec = reflection_spec(golden_spec)
    for pair in spec["edits"][0]["pairs"]:
        pair["source"]["intervene"]["value"] = pair["target"]["intervene"]["value"]
    del spec["compatibility"]
    (tmp_path / "same.json").write_text(json.dumps(spec))
    result = run("compile", tmp_path / "same.json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    rule = read_rule(tmp_path / "out" / "rules" / "01-golden.safetensors")
    weights = {name: tensor.double() for name, tensor in golden_weights().items()}
    model = ProgressiveGAN(weights)
    assert loss_of(rule, model, weights) < 1e-12
    weights["layer6.conv.weight"] = 0.9 * weights["layer6.conv.weight"]
    assert loss_of(rule, model, weights) > 1e-3


def golden_weights() -> dict[str, Tensor]:
    return read_weights(Path(__file__).parents[1] / "golden" / "pg_state_dict.safetensors").tensors


def test_without_their_quirks_the_numbers_are_others(
    golden_spec: Callable[..., dict[str, Any]], golden: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    spec = golden_spec(*CASES["L6.linear.rank1"])
    del spec["compatibility"]
    wanted = golden["sg2_edits_f64"]["L6.linear.rank1.delta"][0]
    found = built(spec, tmp_path)
    assert (found - wanted).norm() / wanted.norm() > 1e-3
