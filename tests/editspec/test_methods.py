"""Every method on a Progressive GAN, from a spec to the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = GOLDEN / "pg_state_dict.safetensors"


def spec(layer: str, solver: Any, size: int, **fields: Any) -> dict[str, Any]:
    """The values of one image in a square of `size` pixels in the place of another's."""
    source = {"latent": 1, "mask": {"box": [20, 20, 20 + size, 20 + size]}}
    return {
        "version": 1,
        "model": {"family": "proggan", "weights": str(WEIGHTS)},
        "statistics": {"samples": 20},
        "edits": [
            {
                "name": "e",
                "layer": layer,
                "solver": solver,
                "source": source,
                "target": {**source, "latent": 2},
            }
            | fields
        ],
    }


def built(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "spec.json").write_text(json.dumps(data, indent="\t"))
    (edit,) = said("build", folder / "spec.json", "-o", folder / "out")["edits"]
    return dict(edit)


METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "projected-gradient": ({"steps": 20}, {"rank": 2}),
    "direct": ({"steps": 20}, {}),
    "closed-form": ({}, {"rank": 2}),
    "low-rank": ({"steps": 20}, {"rank": 2}),
    "layer": ({"steps": 20}, {}),
    "all-weights": ({"steps": 3, "learning_rate": 0.001}, {}),
    "ablate": ({}, {"source": {"erase": {"units": 3}}}),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_patch_of_a_progressive_gan(method: str, tmp_path: Path) -> None:
    settings, fields = METHODS[method]
    edit = built(spec("layer6", {"method": method, **settings}, 8, **fields), tmp_path)
    out = tmp_path / "edited.safetensors"
    assert said("apply", "--model", WEIGHTS, edit["patch"], "-o", out)["digest"] == edit["result"]
    before, after = load_file(WEIGHTS), load_file(out)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == (len(before) if method == "all-weights" else 1)
    assert said("inspect", out)["family"] == "proggan"


def test_a_one_by_one_kernel_is_met_exactly(tmp_path: Path) -> None:
    exact = built(spec("output_64x64", "closed-form", 1), tmp_path)
    assert exact["residual"] < 1e-5
    # Four keys are more than one direction can serve, and no more than four can.
    four = built(spec("output_64x64", "closed-form", 2), tmp_path)
    assert four["residual"] > 1e-2
    assert built(spec("output_64x64", "closed-form", 2, rank=4), tmp_path)["residual"] < 1e-5


def test_no_other_solver_comes_closer_in_the_same_directions(tmp_path: Path) -> None:
    closed = built(spec("layer6", "closed-form", 28), tmp_path)["residual"]
    direct = built(spec("layer6", {"method": "direct", "steps": 300}, 28), tmp_path)["residual"]
    assert 0.01 < closed < direct < 1


def test_a_pth_is_built_like_the_same_weights_in_safetensors(tmp_path: Path) -> None:
    data = spec("layer6", "closed-form", 8)
    first = built(data, tmp_path)
    state: dict[str, Tensor] = load_file(WEIGHTS)
    torch.save(state, tmp_path / "g.pth")
    data["model"]["weights"] = "g.pth"
    assert built(data, tmp_path)["digest"] == first["digest"]
    data["edits"][0]["source"] = {"erase": {"units": 49}}
    (tmp_path / "spec.json").write_text(json.dumps(data))
    result = run("build", tmp_path / "spec.json", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "layer6 has 48 units in its key, and 49 are to be erased" in result.stderr
