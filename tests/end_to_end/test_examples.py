"""The examples of the family torch run as they stand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from editspec_runtime.families.torch_module.source import run_factory
from tests.commands import run

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(params=["mlp", "dcgan"])
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An example in a folder of its own. Training the DCGAN takes too long for a test, so its
    weights are random.
    """
    name: str = request.param
    shutil.copytree(
        EXAMPLES / name,
        tmp_path / name,
        ignore=shutil.ignore_patterns("*.safetensors", "*.pt2", "__pycache__"),
    )
    monkeypatch.chdir(tmp_path / name)
    if name == "mlp":
        subprocess.run([sys.executable, "train.py"], check=True, capture_output=True)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, _ = run_factory("dcgan:Generator", Path(), allow_code=True)
        save_file(module.state_dict(), "dcgan.safetensors")
    return name


def test_an_example_builds(example: str) -> None:
    lines = [
        line for line in Path("spec.yaml").read_text().splitlines() if not line.startswith("#")
    ]
    assert len(lines) <= 10
    for command in (
        ["build", "spec.yaml", "-o", "out", "--json"],
        ["render", "spec.yaml", "-o", "x.png", "--count", "2"],
    ):
        assert run(*command).exit_code == 1  # without --allow-code nothing is imported
        result = run(*command, "--allow-code")
        assert result.exit_code == 0, result.stderr
        if command[0] == "build":
            (edit,) = json.loads(result.stdout)["edits"]
            assert edit["loss"] < {"mlp": 0.1, "dcgan": 1.0}[example]
    assert Path("x.png").exists()
    result = run("check", "spec.yaml", "-o", "out", "--allow-code", "--json")
    (row,) = json.loads(result.stdout)["checks"]
    assert row["value"] > {"mlp": 0.9, "dcgan": 0.1}[example]
    assert result.exit_code == 0 or example == "dcgan"  # whose weights are random here
