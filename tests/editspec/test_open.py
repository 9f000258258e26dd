"""What is opened: a checkpoint once in a review, and no model for the check of a lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec_runtime.families import open as opening
from editspec_runtime.families.registry import FAMILIES
from tests.commands import run


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]) -> Path:
    """A spec of one edit on weights of its own, in the working folder."""
    monkeypatch.chdir(tmp_path)
    save_file(tiny, "tiny.safetensors")
    source, target = ({"latent": n, "mask": {"box": [0, 0, 8, 8]}} for n in (1, 2))
    edit = {"name": "edit", "layer": "layer5", "source": source, "target": target}
    content = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [edit | {"solver": {"method": "direct", "steps": 2}}],
        "checks": [{"edit": "edit", "measure": "finite"}],
    }
    Path("spec.yaml").write_text(yaml.safe_dump(content))
    return Path("spec.yaml")


def counting(function: Callable[[Path], Any], counts: Counter[str]) -> Callable[[Path], Any]:
    def count(path: Path) -> Any:
        counts[path.name] += 1
        return function(path)

    return count


def test_a_review_opens_a_checkpoint_once(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    monkeypatch.setattr(opening, "read_tensors", counting(opening.read_tensors, opened))
    result = run("ci", "review", spec, "-o", "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert Path("out/spec.yaml/before-after.png").is_file()
    assert opened["tiny.safetensors"] == 1


def test_the_check_of_a_lock_opens_no_model(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("lock", spec, "--device", "cpu").exit_code == 0
    unmade = replace(FAMILIES["stylegan2"], make="no_such_module:make")
    monkeypatch.setitem(FAMILIES, "stylegan2", unmade)
    checked = run("lock", spec, "--check")
    assert checked.exit_code == 0, checked.output
    # Whatever opens the model is seen.
    assert run("lock", spec, "--device", "cpu").exit_code == 1
    weights = Path("tiny.safetensors").read_bytes()
    Path("tiny.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert run("lock", spec, "--check").exit_code == 1
