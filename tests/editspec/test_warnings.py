"""Warnings of numbers that are right, and mislead all the same: in text, in JSON and in plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from editspec.engine.warnings import FEWEST_KEYS, HIGH_COLLATERAL, sample_warning
from editspec_runtime.core.architecture import Layer
from editspec_runtime.methods.registry import METHODS
from editspec_runtime.patches.patch import read_patch
from tests.cases import tiny_stylegan2
from tests.commands import run, said

MILD = {"method": "layer", "steps": 3, "learning_rate": 1e-4}
TAME = {"method": "least-squares", "collateral_weight": 30}
WILD = {"method": "least-squares", "collateral_weight": 1e-4}


def write_spec(folder: Path, solver: Any, samples: int = 64, **edit: Any) -> Path:
    """Write a spec of one edit of a tiny model, whose layer has 6 units and 256 positions."""
    if not (folder / "tiny.safetensors").exists():
        save_file(tiny_stylegan2(), folder / "tiny.safetensors")
    place = {"latent": 5, "mask": {"box": [8, 4, 22, 22]}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": samples},
        "edits": [
            {"name": "e", "layer": "layer6", "source": {**place, "latent": 6}, "target": place}
            | {"solver": solver}
            | edit
        ],
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_a_high_collateral_is_told_everywhere(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, WILD, rank=4)
    (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
    assert edit["collateral"]["layer6"]["correlated"] > HIGH_COLLATERAL
    (warning,) = edit["warnings"]
    assert warning.startswith("The predicted collateral is")
    assert "Raise solver.collateral_weight, or lower the rank." in warning
    # An edit that is up to date is warned of as well, in text and in plans.
    for command in (
        ["build", spec, "-o", tmp_path / "out"],
        ["plan", spec, "-o", tmp_path / "out"],
    ):
        assert f"warning: e: {warning}" in run(*command).stdout
    (planned,) = said("plan", spec, "-o", tmp_path / "out")["edits"]
    assert planned["warnings"] == [warning]
    # The negative control.
    spec = write_spec(tmp_path, MILD)
    (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
    assert edit["warnings"] == []
    assert "warning" not in run("build", spec, "-o", tmp_path / "out").stdout


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_to_lower(method: str) -> None:
    advice = METHODS[method].make_settings().less_collateral()
    assert advice.endswith(".")
    # What it names is there.
    for word in advice.replace(".", " ").replace(",", " ").split("solver ")[1:]:
        assert word.split()[0] in METHODS[method].settings.model_fields


def test_few_samples_are_told(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, MILD)
    (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
    assert edit["warnings"] == []
    layer = Layer("l", "w", 128, 64, positions=16, value_positions=16)
    assert sample_warning(layer, FEWEST_KEYS * 8) is None
    few = sample_warning(layer, 2)
    assert few is not None
    assert few.startswith("2 samples of l have 32 keys for 128 units")
    assert few.endswith(f"Raise statistics.samples to {FEWEST_KEYS * 8} or more.")


def test_pairs_that_ask_for_nothing_are_told(tmp_path: Path) -> None:
    place = {"latent": 5, "mask": {"box": [8, 4, 22, 22]}}
    other = {**place, "latent": 6}
    for sources, said_of_it in (
        ([5], "Nothing is asked for: what is copied is there already."),
        ([6, 5], "What pairs[1] copies is there already, so that it asks for nothing (1 of 2"),
        ([6], None),
    ):
        pairs = [{"source": {**other, "latent": number}, "target": place} for number in sources]
        spec = write_spec(tmp_path, TAME, pairs=pairs, source=None, target=None)
        (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
        assert len(edit["warnings"]) == (said_of_it is not None)
        assert said_of_it is None or edit["warnings"][0].startswith(said_of_it)


def test_a_target_that_is_preserved_is_told(tmp_path: Path) -> None:
    box, beside = {"box": [8, 4, 22, 22]}, {"box": [0, 24, 8, 32]}
    for place, told in (
        ({"latent": 5}, True),
        ({"latent": 5, "mask": box}, True),
        ({"latent": 5, "mask": beside}, False),
        ({"latent": 7, "mask": box}, False),
    ):
        preserve = [{"latent": 9}, place]
        spec = write_spec(tmp_path, {"method": "least-squares"}, preserve=preserve)
        found = said("validate", spec)["warnings"]
        paths = [each["path"] for each in found if each["code"] == "E415 place-preserved"]
        assert paths == (["edits[0].preserve[1]"] if told else [])
    # Of many it is said once.
    preserve = [{"latent": 9}, {"latents": [5] * 30}]
    spec = write_spec(tmp_path, {"method": "least-squares"}, preserve=preserve)
    (warning,) = said("validate", spec)["warnings"]
    assert warning["path"] == "edits[0].preserve[1]"
    assert "29 more entries" in warning["message"]


def test_a_layer_with_dead_units_is_edited_with_a_note(tmp_path: Path) -> None:
    weights = tiny_stylegan2()
    # What layer6 sees of this unit is zero everywhere.
    for name in ("convs.2.conv.weight",):
        weights[name][:, 3] = 0
    weights["convs.2.activate.bias"][3] = 0
    weights["convs.2.noise.weight"].zero_()
    save_file(weights, tmp_path / "tiny.safetensors")
    rebuilt = ("--model", tmp_path / "tiny.safetensors", "--spec", tmp_path / "spec.yaml")
    for solver in ("least-squares", {"method": "direct", "steps": 5}):
        spec = write_spec(tmp_path, solver, rank=2)
        (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
        note = "1 of 6 directions of the keys of layer6 never occur in its sample"
        assert any(note in warning for warning in edit["warnings"])
        patch = read_patch(Path(edit["patch"]))
        assert any(note in text for text in patch.metadata["notes"])
        (directions,) = patch.directions.values()
        assert directions[:, 3].abs().max() < 1e-6
        assert torch.isfinite(directions).all()
        assert run("verify", edit["patch"], *rebuilt).exit_code == 0
    # The negative control: whole weights have no note, and their patches no such field.
    (tmp_path / "tiny.safetensors").unlink()
    spec = write_spec(tmp_path, {"method": "direct", "steps": 5}, rank=2)
    (edit,) = said("build", spec, "-o", tmp_path / "out")["edits"]
    assert "notes" not in read_patch(Path(edit["patch"])).metadata
    assert json.dumps(edit["warnings"]).count("never occur") == 0
