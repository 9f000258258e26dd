"""Patches that are whole and sound in themselves, and do not fit what they are given with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import editspec
from editspec.engine.changes import layout_of
from editspec.engine.resources import locate_weights
from editspec.engine.stacks import read_stack
from editspec_runtime.errors import PatchError, WeightsError
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.patches.patch import Patch, make_patch

NAME = "conv1.conv.weight"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def low_rank(inputs: int = 4, layout: str = "1 o i y x") -> Patch:
    directions = {NAME: torch.eye(inputs)[:1]}
    return make_patch(directions, {NAME: torch.ones(4, 1, 3, 3)}, {NAME: layout}, METADATA)


METADATA = dict.fromkeys(("base", "parent", "result", "edit"), "0" * 64) | {
    "name": "e",
    "family": "stylegan2",
    "layer": "layer2",
    "rank": 1,
    "solver": {"method": "direct"},
}


def full(change: Tensor, layout: str) -> Patch:
    metadata = METADATA | {"rank": None, "solver": {"method": "all-weights"}}
    return make_patch({}, {}, {"x.weight": layout}, metadata, {"x.weight": change})


def write(patch: Patch, name: str) -> str:
    Path(name).write_bytes(patch.to_bytes())
    return name


def test_changes_of_other_sizes_are_not_compared() -> None:
    first, second = write(low_rank(), "a.safetensors"), write(low_rank(8), "b.safetensors")
    assert editspec.diff(first, first).same
    with pytest.raises(PatchError, match="different weights"):
        editspec.diff(first, second)


@pytest.mark.parametrize("form", ["delta", "peft"])
def test_changes_of_other_sizes_are_no_stack(form: str) -> None:
    first, second = write(low_rank(), "a.safetensors"), write(low_rank(8), "b.safetensors")
    assert len(read_stack([first, first])) == 2
    with pytest.raises(PatchError, match="different weights"):
        editspec.export([first, second], out="x", format=form)
    with pytest.raises(PatchError, match="different weights"):
        editspec.compose([first, second], out="c.safetensors")


def test_a_change_of_one_number_is_compared_and_exported() -> None:
    patch = write(full(torch.tensor(2.0), ""), "a.safetensors")
    assert editspec.diff(patch, patch).same
    editspec.export([patch], out="x.safetensors", format="delta")
    assert load_file("x.safetensors")["x.weight"] == torch.tensor(2.0)
    with pytest.raises(PatchError, match="no LoRA"):
        editspec.export([patch], out="peft", format="peft")


def test_an_axis_of_length_one_has_that_length() -> None:
    patch = write(full(torch.ones(1), "1"), "a.safetensors")
    editspec.export([patch], out="x.safetensors", format="delta")
    patch = write(full(torch.ones(9), "1"), "a.safetensors")
    with pytest.raises(PatchError, match="layout"):
        editspec.export([patch], out="y.safetensors", format="delta")


def test_a_weight_of_five_axes_is_named_by_its_first() -> None:
    assert layout_of(torch.ones(1, 2, 3, 3, 3)) == "1 o i y x"
    weight = torch.ones(2, 2, 3, 3, 3)
    patch = write(full(weight, layout_of(weight)), "a.safetensors")
    editspec.export([patch], out="x.safetensors", format="delta")
    assert load_file("x.safetensors")["x.weight"].shape == weight.shape


def test_weights_of_no_numbers_that_compute_make_no_model() -> None:
    own = load_file(locate_weights("builtin:skyline", Path()))
    weights = {name.removeprefix("g_ema."): tensor for name, tensor in own.items()}
    StyleGAN2(weights)
    name = "to_rgb1.conv.modulation.bias"
    weights[name] = weights[name].bool()
    with pytest.raises(WeightsError, match="BOOL"):
        StyleGAN2(weights)
