"""Patches in the formats of other tools: a LoRA, deltas, parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from editspec.engine.adapters import (
    ADAPTABLE,
    ADAPTER,
    CONFIGURATION,
    INPUTS_FIRST,
    adaptable_axes,
    adapter_configuration,
    join_factors,
)
from editspec.engine.export_results import AdaptedModule, AdapterExport, TensorsExport
from editspec.engine.resources import locate_weights
from editspec.engine.stacks import (
    changed_parameters,
    choose_by_stack,
    read_chain,
    require_belonging,
    require_named,
)
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import find_family
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.io.outputs import EXPORT, EXPORT_FORMAT, adapter_folder, require_folder_name
from editspec_runtime.patches.patch import Patch, apply_stack


def export_peft(files: Sequence[Path | str], out: Path, model: str | None) -> AdapterExport:
    """Write the change of patches as a LoRA into the folder `out`."""
    require_folder_name(out)
    EXPORT.require_free(out / ADAPTER)
    adapter_folder(ADAPTER, CONFIGURATION).require_free(out)
    stack = read_chain(files)
    tensors: dict[str, Tensor] = {}
    modules: dict[str, AdaptedModule] = {}
    for name in changed_parameters(stack):
        module = name.removesuffix(".weight")
        kind = ADAPTABLE[adaptable_axes(stack, name)]
        a, b = join_factors(stack, name)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        modules[module] = AdaptedModule(kind, len(a))
    write(out / ADAPTER, safetensors_bytes(tensors, metadata_of(stack, "peft")))
    ranks = {name: module.rank for name, module in modules.items()}
    inputs_first = any(module.kind == INPUTS_FIRST for module in modules.values())
    configuration = adapter_configuration(ranks, inputs_first=inputs_first)
    text = json.dumps(configuration, indent=2, sort_keys=True)
    write(out / CONFIGURATION, f"{text}\n".encode())
    note = find_family(stack[0].metadata["family"]).export_note
    return AdapterExport("peft", out, modules, (note,) if note else ())


def export_delta(files: Sequence[Path | str], out: Path, model: str | None) -> TensorsExport:
    """Write the sum of the changes of each parameter to `out`, rounded once."""
    EXPORT.require_free(out)
    stack = read_chain(files)
    tensors = {name: _sum_changes(stack, name) for name in changed_parameters(stack)}
    write(out, safetensors_bytes(tensors, metadata_of(stack, "delta")))
    return TensorsExport("delta", out, _shapes(tensors))


def _sum_changes(stack: Sequence[Patch], name: str) -> Tensor:
    """The change of a parameter by a stack, in its own shape and precision."""
    changing = [patch for patch in stack if name in patch.parameters]
    axes = str(changing[0].metadata["layouts"][name]).split()
    total = changing[0].stored_change(name)
    for patch in changing[1:]:
        total = total.reshape(patch.stored_change(name).shape) + patch.stored_change(name)
    dtype = next(iter(changing[0].tensors().values())).dtype
    # Axes of size 1 in front of the weight are no part of a stored change.
    ones = axes.count("1")
    shape = total.shape[total.ndim - (len(axes) - ones) :]
    return total.reshape([1] * ones + list(shape)).to(dtype)


def export_full(files: Sequence[Path | str], out: Path, model: str | None) -> TensorsExport:
    """Write the parameters that patches change, as they are afterwards, to `out`."""
    EXPORT.require_free(out)
    stack = read_chain(files)
    assert model is not None
    path = locate_weights(model, Path())
    checkpoint = read_weights(path, choose_by_stack(stack))
    require_belonging(path, checkpoint.metadata, checkpoint.digest(), stack)
    weights = apply_stack(checkpoint, stack)
    require_named(weights.digest(), stack)
    tensors = {name: weights[name] for name in changed_parameters(stack)}
    write(out, safetensors_bytes(tensors, metadata_of(stack, "full")))
    return TensorsExport("full", out, _shapes(tensors))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def metadata_of(stack: Sequence[Patch], form: str) -> dict[str, Any]:
    """The metadata of an exported file: weights before and after, and the patches."""
    first, last = stack[0].metadata, stack[-1].metadata
    return {
        "format": EXPORT_FORMAT,
        "version": 1,
        "form": form,
        "base": first["base"],
        "parent": first["parent"],
        "result": last["result"],
        "patches": [patch.metadata["content"] for patch in stack],
    }
