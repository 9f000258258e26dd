"""A build hashes every tensor of the model once, and after an edit what the edit changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

import editspec
from editspec.engine.resources import locate_weights
from editspec_runtime.families.open import read_weights
from editspec_runtime.io import digests
from editspec_runtime.io.weights import Weights
from editspec_runtime.patches.patch import apply_stack

MASKS = {"mask": {"box": [4, 4, 20, 20]}}


def spec_of(count: int) -> dict[str, Any]:
    edits = []
    for number in range(count):
        source, target = ({"latent": latent, **MASKS} for latent in (number, number + 1))
        edit = {"name": f"edit-{number}", "layer": f"layer{4 + number % 3}", "rank": 2}
        edits.append(edit | {"source": source, "target": target, "solver": "least-squares"})
    model = {"family": "stylegan2", "weights": "builtin:skyline"}
    return {"version": 1, "model": model, "statistics": {"samples": 16}, "edits": edits}


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count_hashed(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes of model tensors that a build hashes, and how many there are to hash.

    Tensors of the cache and of patches, which are hashed as well, do not count: they are told
    apart by their content.
    """
    base = read_weights(locate_weights("builtin:skyline"))
    model = {digests.tensor_digest(tensor) for tensor in base.values()}
    hashed: list[tuple[str, int]] = []
    original = digests.tensor_digest

    def count_bytes(tensor: Tensor) -> str:
        sha256 = original(tensor)
        hashed.append((sha256, size(tensor)))
        return sha256

    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(spec_of(count)))
    with monkeypatch.context() as patched:
        patched.setattr(digests, "tensor_digest", count_bytes)
        built = editspec.build(spec, folder / "out", device="cpu").edits
    wanted = sum(map(size, base.values()))
    for edit in built:
        (parameter,) = edit.patch.parameters
        wanted += size(base[parameter])
    for number in range(count):
        after = apply_stack(base, [edit.patch for edit in built[: number + 1]])
        model |= {original(tensor) for tensor in after.values()}
    return sum(length for sha256, length in hashed if sha256 in model), wanted


@pytest.mark.parametrize("count", [1, 5])
def test_a_build_hashes_the_model_once_and_what_changed(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, wanted = count_hashed(count, tmp_path, monkeypatch)
    assert 0.9 * wanted < hashed <= wanted


def test_without_hashes_that_are_kept_a_build_hashes_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_again(weights: Weights, name: str, _: Tensor | None = None) -> str:
        return digests.tensor_digest(weights[name])

    monkeypatch.setattr(Weights, "_sha256", hash_again)
    hashed, wanted = count_hashed(1, tmp_path, monkeypatch)
    assert hashed > 1.5 * wanted
