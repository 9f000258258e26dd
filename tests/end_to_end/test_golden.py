"""The authors' numbers, from a spec to the patch, through `editspec build`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from editspec.cli import app
from editspec_runtime.patch import read_patch
from editspec_runtime.rule import read_rule

CASES = {
    "L8.proj.rank1": ("layer8", {"method": "projected-gradient", "steps": 101}),
    "L6.linear.rank1": ("layer6", {"method": "direct", "steps": 101}),
    "L6.erase.rank1": ("layer6", {"method": "projected-gradient", "steps": 101}),
}


def built(spec: dict[str, Any], folder: Path) -> Tensor:
    (folder / "golden.json").write_text(json.dumps(spec, indent="\t"))
    result = CliRunner().invoke(app, ["build", str(folder / "golden.json"), "-o", str(folder / "out"), "--json"])
    assert result.exit_code == 0, result.stderr
    (edit,) = json.loads(result.stdout)["edits"]
    patch = read_patch(Path(edit["patch"]))
    return patch.delta(next(iter(patch.directions)))


@pytest.mark.parametrize("case", CASES)
def test_the_change_of_the_weight_is_the_authors(
    case: str, golden_spec: Callable[..., dict[str, Any]], golden: dict[str, dict[str, Tensor]], tmp_path: Path
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
    rule = read_rule(tmp_path / "out" / "rules" / "01-golden.safetensors")
    for tensor, name in ((rule.key[:, :, 1:-1, 1:-1], "goal_in"), (rule.value, "goal_out")):
        stage = golden["pg_stages_f64"][f"L6.{name}"]
        assert (tensor - stage).norm() / stage.norm() < 1e-10


def test_without_their_quirks_the_numbers_are_others(
    golden_spec: Callable[..., dict[str, Any]], golden: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    spec = golden_spec(*CASES["L6.linear.rank1"])
    del spec["compatibility"]
    wanted = golden["sg2_edits_f64"]["L6.linear.rank1.delta"][0]
    found = built(spec, tmp_path)
    assert (found - wanted).norm() / wanted.norm() > 1e-3
