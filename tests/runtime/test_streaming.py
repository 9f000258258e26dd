"""Applying at any size gives what applying in memory gives, whatever the container and the
dtype.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec.commands.apply import apply
from editspec_runtime.errors import EditError, FileError, NumericalError, PatchError
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.patches import streaming
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch
from editspec_runtime.patches.rounding import round_once
from tests.cases import draw_normal_f32


def base(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        "a.weight": draw_normal_f32(1, 5, 4, 3, 3).to(dtype),
        "b.weight": draw_normal_f32(6, 4, seed=1).to(dtype),
        "bias": draw_normal_f32(7, seed=2).to(dtype),
        "count": torch.arange(3),
        "none": torch.zeros(0, 3),
    }


def stack_on(before: dict[str, Tensor], count: int, size: float = 1.0) -> list[Patch]:
    """Random patches of all kinds, each signed for its place."""
    stack: list[Patch] = []
    for seed in range(count):
        d = {
            name: torch.linalg.qr(draw_normal_f32(4, 2, seed=seed))[0].T.contiguous()
            for name in ("a.weight", "b.weight")
        }
        a = {
            "a.weight": size * draw_normal_f32(5, 2, 3, 3, seed=seed + 1),
            "b.weight": size * draw_normal_f32(6, 2, seed=seed + 2),
        }
        if seed % 3 == 2:
            del d["b.weight"], a["b.weight"]
        deltas = {"bias": size * draw_normal_f32(7, seed=seed)} if seed % 2 else {}
        result = tensors_digest(apply_stack(before, [*stack, Patch(d, a, {}, deltas)]))
        metadata = {
            "name": f"edit-{seed}",
            "family": "stylegan2",
            "layer": "layer5",
            "rank": None if deltas else 2,
            "solver": {"method": "compose", "rank": None},
            "composed": [f"{seed:064x}"],
            "edit": "0" * 64,
            "base": tensors_digest(before),
            "parent": stack[-1].metadata["result"] if stack else tensors_digest(before),
            "result": result,
        }
        stack.append(
            make_patch(d, a, {name: LAYOUTS[name] for name in [*d, *deltas]}, metadata, deltas)
        )
    return stack


LAYOUTS = {"a.weight": "1 o i y x", "b.weight": "o i", "bias": "x"}


def saved(stack: list[Patch], folder: Path) -> list[Path]:
    paths = [folder / f"{number:02d}.patch" for number in range(len(stack))]
    for path, patch in zip(paths, stack, strict=True):
        path.write_bytes(patch.to_bytes())
    return paths


def save_shards(
    folder: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None
) -> None:
    folder.mkdir()
    weight_map = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(sorted(tensors))
    }
    for file in set(weight_map.values()):
        save_file(
            {name: tensors[name] for name in tensors if weight_map[name] == file},
            folder / file,
            {"format": "pt"},
        )
    index = {"metadata": metadata or {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that every tensor is cut."""
    monkeypatch.setattr(streaming, "CHUNK", 16)
    monkeypatch.setattr(streaming, "NUMBERS", 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "g_ema."])
def test_streaming_gives_what_memory_gives(dtype: torch.dtype, prefix: str, tmp_path: Path) -> None:
    before = base(dtype)
    others = {"d.x": torch.ones(3)} if prefix else {}
    save_file(
        {prefix + n: t for n, t in before.items()} | others,
        tmp_path / "base.safetensors",
        {"format": "pt"},
    )
    whole = (tmp_path / "base.safetensors").read_bytes()
    stack = stack_on(before, 4)
    applied = apply(
        tmp_path / "base.safetensors", saved(stack, tmp_path), tmp_path / "out.safetensors"
    )
    wanted = apply_stack(before, stack)
    assert applied.digest == stack[-1].metadata["result"] == tensors_digest(wanted)
    found = load_file(tmp_path / "out.safetensors")
    assert set(found) == {prefix + name for name in before} | set(others)
    for name, tensor in wanted.items():
        assert found[prefix + name].dtype == tensor.dtype
        assert torch.equal(found[prefix + name], tensor)
    for name, change in applied.changed.items():
        exact = (
            sum(p.delta(name).reshape(-1) for p in stack if name in p.parameters)
        ).norm() / before[name].double().norm()
        assert change == pytest.approx(float(exact))
    assert (tmp_path / "base.safetensors").read_bytes() == whole
    assert not list(tmp_path.glob(".*"))


def test_fifty_patches_on_bfloat16_are_rounded_once(tmp_path: Path) -> None:
    before = base(torch.bfloat16)
    stack = stack_on(before, 50, size=0.01)
    save_file(before, tmp_path / "base.safetensors")
    apply(tmp_path / "base.safetensors", saved(stack, tmp_path), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    for name in ("a.weight", "b.weight", "bias"):
        exact = before[name].double()
        total = torch.zeros_like(exact)
        for patch in stack:
            if name in patch.parameters:
                total += patch.delta(name).reshape(exact.shape)
        nearest = [to_bfloat16(value) for value in (exact + total).reshape(-1).tolist()]
        assert found[name].double().reshape(-1).tolist() == nearest


def test_numbers_beyond_float16_are_named(tmp_path: Path) -> None:
    before = base(torch.float16)
    stack = stack_on(before, 1)
    save_file(before, tmp_path / "base.safetensors")
    patches, out = saved(stack, tmp_path), tmp_path / "out.safetensors"
    with pytest.raises(NumericalError, match=r"The edit takes .* to .*, and float16 ends at 65504"):
        apply(tmp_path / "base.safetensors", patches, out, scale=1e6)
    assert not out.exists()
    with pytest.raises(NumericalError, match="float16 ends at 65504"):
        apply_stack(before, stack, 1e6)
    wider = {name: tensor.float() for name, tensor in before.items()}
    assert all(tensor.isfinite().all() for tensor in apply_stack(wider, stack, 1e6).values())


def to_bfloat16(value: float) -> float:
    """The nearest number of eight significant bits, ties to even, by exact arithmetic."""
    if value == 0:
        return value
    exact, exponent = Fraction(value), 0
    while abs(exact) >= 256:
        exact, exponent = exact / 2, exponent + 1
    while abs(exact) < 128:
        exact, exponent = exact * 2, exponent - 1
    return float(round(exact) * Fraction(2) ** exponent)


def test_rounding_by_way_of_float32_would_round_twice() -> None:
    tie = 1 + 2**-8
    values = torch.tensor(
        [tie + 2**-40, tie - 2**-40, -tie - 2**-40, tie, 1.0, 0.0, 3e38, 1e300], dtype=torch.float64
    )
    found = round_once(values, torch.bfloat16)
    assert found[:6].tolist() == [1 + 2**-7, 1.0, -1 - 2**-7, 1.0, 1.0, 0.0]
    assert values.to(torch.bfloat16)[0] == 1.0  # what torch does
    assert found[7].isinf()
    half = torch.tensor([1 + 2**-11 + 2**-40], dtype=torch.float64)
    assert round_once(half, torch.float16).item() == 1 + 2**-10
    many = draw_normal_f32(10_000).double() * 1e-3
    assert round_once(many, torch.bfloat16).tolist() == [
        to_bfloat16(value) for value in many.tolist()
    ]


def test_shards_and_their_index(tmp_path: Path) -> None:
    before = base()
    save_shards(tmp_path / "model", before)
    stack = stack_on(before, 3)
    paths = saved(stack, tmp_path)
    for model in (tmp_path / "model", tmp_path / "model" / "model.safetensors.index.json"):
        for _ in range(2):  # its own output may be made again
            assert apply(model, paths, tmp_path / "out").digest == stack[-1].metadata["result"]
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    found: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors = load_file(tmp_path / "out" / file)
        assert set(tensors) == {
            name for name, where in index["weight_map"].items() if where == file
        }
        found |= tensors
    assert tensors_digest(found) == stack[-1].metadata["result"]
    assert index["metadata"]["total_size"] == 1
    with pytest.raises(PatchError, match="edited already"):
        apply(tmp_path / "out", paths, tmp_path / "again")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").touch()
    with pytest.raises(FileError, match="in the way"):
        apply(tmp_path / "model", paths, tmp_path / "mine")
    assert not list(tmp_path.glob(".*"))


def test_a_bad_index_is_named(tmp_path: Path) -> None:
    save_shards(tmp_path / "model", base())
    index = tmp_path / "model/model.safetensors.index.json"
    content = json.loads(index.read_text())
    for bad in (
        "{",
        "[]",
        json.dumps({"weight_map": {"a": "../x.safetensors"}}),
        json.dumps({"weight_map": {"a": "none"}}),
        json.dumps(
            {"weight_map": {**content["weight_map"], "z": "model-00001-of-00002.safetensors"}}
        ),
    ):
        index.write_text(bad)
        with pytest.raises(FileError):
            apply(tmp_path / "model", [], None)


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    before = base()
    stack = stack_on(before, 2)
    paths = saved(stack, tmp_path)
    save_file({**before, "bias": before["bias"] + 1}, tmp_path / "other.safetensors")
    with pytest.raises(PatchError, match="digest"):
        apply(tmp_path / "other.safetensors", paths, tmp_path / "out.safetensors")
    save_file({n: t for n, t in before.items() if n != "bias"}, tmp_path / "lacks.safetensors")
    with pytest.raises(PatchError, match="lack it"):
        apply(tmp_path / "lacks.safetensors", paths, tmp_path / "out.safetensors")
    save_file({**before, "bias": torch.arange(7)}, tmp_path / "whole.safetensors")
    with pytest.raises(EditError, match="floating point"):
        apply(tmp_path / "whole.safetensors", paths, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert not list(tmp_path.glob(".*"))


def test_dry_and_scaled(tmp_path: Path) -> None:
    before = base()
    stack = stack_on(before, 3)
    paths = saved(stack, tmp_path)
    save_file(before, tmp_path / "base.safetensors")
    files = sorted(tmp_path.iterdir())
    dry = apply(tmp_path / "base.safetensors", paths, None)
    assert sorted(tmp_path.iterdir()) == files
    done = apply(tmp_path / "base.safetensors", paths, tmp_path / "out.safetensors")
    assert dry == replace(done, out=None)
    scaled = apply(tmp_path / "base.safetensors", paths, tmp_path / "half.safetensors", scale=0.5)
    assert scaled.digest != dry.digest
    assert scaled.changed["bias"] == pytest.approx(dry.changed["bias"] / 2)
    wanted = apply_stack(before, stack, 0.5)
    assert all(
        torch.equal(tensor, wanted[name])
        for name, tensor in load_file(tmp_path / "half.safetensors").items()
    )
