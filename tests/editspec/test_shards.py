"""Weights in several files with an index, wherever weights are named: the same as in one file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec_runtime.families.open import read_weights
from tests.commands import run, said

INDEX = "model.safetensors.index.json"
FORMS = ("sharded", f"sharded/{INDEX}")


def write(weights: str, **more: Any) -> None:
    edit = {
        "name": "one",
        "layer": "layer6",
        "source": {"latent": 5, "mask": {"box": [4, 4, 12, 12]}},
        "target": {"latent": 6, "mask": {"box": [2, 2, 10, 10]}},
        "solver": {"method": "direct", "steps": 4, "learning_rate": 0.01},
    }
    model = {"family": "stylegan2", "weights": weights} | more
    data = {"version": 1, "model": model, "statistics": {"samples": 24}, "edits": [edit]}
    Path("spec.yaml").write_text(yaml.safe_dump(data))


@pytest.fixture(autouse=True)
def folder(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The same weights in one file and in three."""
    monkeypatch.chdir(tmp_path)
    weights = {f"g_ema.{name}": tensor for name, tensor in make_tiny(size=16).items()}
    save_file(weights, "tiny.safetensors")
    Path("sharded").mkdir()
    files = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(files.values()):
        save_file(
            {name: weights[name] for name in files if files[name] == file}, Path("sharded", file)
        )
    Path("sharded", INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_a_spec_may_name_weights_in_several_files(form: str) -> None:
    write("tiny.safetensors")
    whole = said("build", "spec.yaml", "-o", "whole")["edits"][0]
    # The weights are the same, by their digest: nothing is to be built again.
    write(form, digest=read_weights(Path("tiny.safetensors")).digest())
    said("validate", "spec.yaml")
    assert said("plan", "spec.yaml", "-o", "whole")["to_build"] == 0
    Path("spec.yaml.lock").unlink()
    parts = said("build", "spec.yaml", "-o", "parts", "--provenance")["edits"][0]
    assert parts["status"] == "new"
    assert Path(parts["patch"]).read_bytes() == Path(whole["patch"]).read_bytes()
    named = json.loads(Path("parts/provenance.json").read_text())["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]
    assert {entry["name"] for entry in named} >= {
        INDEX,
        *(f"model-{number}.safetensors" for number in range(3)),
    }
    assert run("render", "spec.yaml", "-o", "x.png", "--count", 1).exit_code == 0
    write(form, digest="0" * 64)
    assert run("build", "spec.yaml", "-o", "x").exit_code == 1


@pytest.mark.parametrize("form", FORMS)
def test_every_command_that_takes_weights_takes_them_in_several_files(form: str) -> None:
    write("tiny.safetensors")
    (edit,) = said("build", "spec.yaml", "-o", "out")["edits"]
    digest = read_weights(Path("tiny.safetensors")).digest()
    found = said("inspect", form)
    assert (found["kind"], found["digest"]) == ("weights", digest)
    assert found["layers"] == said("inspect", "tiny.safetensors")["layers"]
    assert said("verify", edit["patch"], "--model", form, "--spec", "spec.yaml")["patches"][0][
        "identical"
    ]
    assert said(
        "export", edit["patch"], "--format", "full", "--model", form, "-o", "full.safetensors"
    )
    assert said("convert", form, "back.safetensors")["digest"] == digest
    assert load_file("back.safetensors").keys() == load_file("tiny.safetensors").keys()
    assert said("apply", "--model", form, edit["patch"], "-o", "edited")["digest"] == edit["result"]
    assert said("audit", "--base", form, "--edited", "edited", edit["patch"])["explained"]
    assert said("diff", form, "tiny.safetensors")["same"]
    assert not said("diff", form, "edited")["same"]


def test_a_changed_shard_is_noticed() -> None:
    write("sharded")
    (edit,) = said("build", "spec.yaml", "-o", "out")["edits"]
    path = Path("sharded/model-1.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert said("plan", "spec.yaml")["to_build"] == 1
    result = run("verify", edit["patch"], "--model", "sharded")
    assert (result.exit_code, "was solved on weights" in result.stderr) == (1, True)
    path.unlink()
    result = run("validate", "spec.yaml")
    assert (result.exit_code, "model-1.safetensors does not exist" in result.stderr) == (1, True)
    Path("sharded", INDEX).unlink()
    result = run("validate", "spec.yaml")
    assert (result.exit_code, "no index of them" in result.stderr) == (2, True)


def test_validating_them_needs_no_torch() -> None:
    write("sharded")
    text = Path("spec.yaml").read_text()
    code = (
        "import sys\nfrom editspec.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit as error:\n"
        "    assert not error.code, error.code\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, "validate", "spec.yaml"], check=True, capture_output=True
    )
    Path("spec.yaml").write_text(text.replace("layer6", "layer60"))
    assert "there is no layer60" in run("validate", "spec.yaml").stderr
