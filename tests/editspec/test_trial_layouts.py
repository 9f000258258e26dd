"""Trials of edits of checkpoints that hold the input axis first, as transposed convolutions do."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import editspec
from editspec.engine.at_edit import open_at_edit
from editspec_runtime.core.progress import no_progress
from editspec_runtime.families.torch_module.source import run_factory

DCGAN = Path(__file__).parents[2] / "examples" / "dcgan"


def test_a_trial_of_a_transposed_convolution_is_what_is_built(tmp_path: Path) -> None:
    shutil.copy(DCGAN / "dcgan.py", tmp_path)
    spec = tmp_path / "spec.yaml"
    spec.write_text((DCGAN / "spec.yaml").read_text().replace("steps: 300", "steps: 5"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, _ = run_factory("dcgan:Generator", tmp_path, allow_code=True)
    save_file(module.state_dict(), tmp_path / "dcgan.safetensors")
    with editspec.allow_code():
        session, number = open_at_edit(spec, None, "cpu", no_progress)
        before = session.current_model().weights.digest()  # type: ignore[attr-defined]
        tried = session.try_edit(number).weights.digest()  # type: ignore[attr-defined]
        session.solve(number)
        after = session.current_model().weights.digest()  # type: ignore[attr-defined]
    inputs, outputs = module.state_dict()["main.6.weight"].shape[:2]
    assert inputs != outputs  # else a change that lies across would have the same shape
    assert tried == after != before
