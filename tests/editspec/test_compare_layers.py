"""``compare-layers`` on a network whose layers end behind their rectifier, or before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

import editspec
from editspec_runtime.patches.patch import read_patch
from tests.cases import draw_network
from tests.commands import run, said

CODE = """
from torch import nn

def make():
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 12, 4), nn.BatchNorm2d(12), nn.ReLU(True),
        nn.ConvTranspose2d(12, 10, 4, 2, 1), nn.BatchNorm2d(10), nn.ReLU(True),
        nn.ConvTranspose2d(10, 3, 4, 2, 1), nn.Tanh(),
    )
    net.latent_shape = (6, 1, 1)
    return net
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    save_file(draw_network("nets:make", 5), "net.safetensors")
    place = {"mask": {"box": [0, 0, 8, 8]}}
    edit = {
        "name": "e",
        "layer": "3",
        "rank": 2,
        "source": {"latent": 1, **place},
        "target": {"latent": 2, **place},
        "solver": "least-squares",
    }
    model = {"family": "torch", "module": "nets:make", "weights": "net.safetensors"}
    yield {"version": 1, "model": model, "statistics": {"samples": 60}, "edits": [edit]}
    sys.modules.pop("nets", None)


def test_layers_of_one_weight_differ_in_what_an_edit_costs(spec: dict[str, Any]) -> None:
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    with editspec.allow_code():
        result = editspec.compare_layers("spec.yaml", images=60)
    rows = {row["layer"]: row for row in result.to_dict()["layers"]}
    assert list(rows) == ["0", "0/weight", "3", "3/weight", "6"]
    whole, alone = rows["3"], rows["3/weight"]
    # The keys are the same, and so is all that follows from keys alone.
    assert (whole["source"], whole["target"]) == (alone["source"], alone["target"])
    # What a rectifier cuts off has not to be met.
    assert whole["collateral"] < 0.7 * alone["collateral"]
    table = run("compare-layers", "spec.yaml", "--images", 60, "--allow-code").stdout.splitlines()
    assert table[0].split()[-2:] == ["left", "collateral"]
    assert table[3].split()[-1] != table[4].split()[-1]


KEPT = {"preserve": [{"latents": [5, 6]}]}


@pytest.mark.parametrize("layer", ["3", "3/weight"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"directions": "learned", **KEPT}, {"rank": "full"}],
    ids=["zca", "learned", "full"],
)
def test_its_numbers_are_those_of_a_build(
    spec: dict[str, Any], layer: str, fields: dict[str, Any]
) -> None:
    spec["edits"][0] |= {"layer": layer, **fields}
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    built = said("build", "spec.yaml", "-o", "out", "--allow-code")["edits"][0]
    with editspec.allow_code():
        compared = editspec.compare_layers("spec.yaml", images=60)
        start = editspec.compare_layers("spec.yaml", images=60, edit="e")
    assert compared == start
    # A refined edit is compared without its steps, which may aim at another layer.
    spec["edits"][0] |= {"refine": {"steps": 1, "at": layer}, **KEPT}
    Path("refined.yaml").write_text(yaml.safe_dump(spec))
    if "preserve" in fields:
        with editspec.allow_code():
            assert editspec.compare_layers("refined.yaml", images=60) == compared
    (row,) = [each for each in compared.layers if each.layer == layer]
    collateral = read_patch(Path(built["patch"])).metadata["collateral"]
    # Of the layers of the weight, the one that was edited is named.
    assert list(collateral) == [layer]
    assert row.collateral == pytest.approx(collateral[layer]["independent"], rel=1e-4)
    assert row.left is not None
    assert 0 < row.left < 1
