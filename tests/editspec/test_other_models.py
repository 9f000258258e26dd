"""A patch of another model: its file, its family, both bases, and the way to take it over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

import editspec
from editspec_runtime.families.open import read_weights
from tests.commands import run, said


@pytest.fixture
def patch(
    tiny_spec: Callable[..., Path],
    make_tiny: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A patch, beside its base and two other models."""
    monkeypatch.chdir(tmp_path)
    tiny_spec(tmp_path)
    save_file(make_tiny(seed=1, size=16), "other.safetensors")
    save_file(make_tiny(size=16, channels=8), "wider.safetensors")
    (edit,) = said("build", "spec.yaml", "-o", "out")["edits"]
    return str(edit["patch"])


def digest_of(name: str) -> str:
    return read_weights(Path(name)).digest()


@pytest.mark.parametrize("model", ["other", "wider"])
@pytest.mark.parametrize(
    "command", [["apply", "-o", "x.safetensors"], ["verify"], ["export", "--format", "full", "-o"]]
)
def test_it_is_told_what_the_patch_is_of(patch: str, model: str, command: list[str]) -> None:
    name, *options = command
    if name == "export":
        options.append("folder")
    weights = f"{model}.safetensors"
    result = run(name, "--model", weights, patch, *options)
    assert result.exit_code == 1
    message, _, hint = result.stderr.partition("hint: ")
    assert f"({patch}, of the family stylegan2)" in message
    assert digest_of("tiny.safetensors") in hint
    assert "editspec rebase" in hint
    # Of the same sizes, only the digests tell them apart.
    sizes = "numbers), and these weights" in message
    assert sizes or digest_of(weights) in message
    assert sizes <= (model != "other")
    assert run(name, "--model", "tiny.safetensors", patch, *options).exit_code == 0


def test_a_model_that_is_opened_in_python_tells_the_same(patch: str) -> None:
    with pytest.raises(editspec.EditError) as found:
        editspec.open("other.safetensors").with_patches(patch)
    error: Any = found.value
    assert f"{patch}, of the family stylegan2" in error.message
    assert "rebase" in error.hint
