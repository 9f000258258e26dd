"""Stacks of patches in the forms of other tools: a LoRA of peft, plain differences, the parameters
as they end up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.commands.apply import require_belonging, require_named
from editspec.commands.stacks import chained
from editspec.engine.outputs import EXPORT_FORMAT, require_free_export
from editspec_runtime.errors import FileError, PatchError
from editspec_runtime.families.checkpoints import read_checkpoint, weights_path
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.patches.patch import Patch, apply_stack

ADAPTER, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
"""The two files that peft keeps an adapter in."""

ADAPTABLE = {
    ("o", "i"): "nn.Linear",
    ("o", "i", "x"): "nn.Conv1d",
    ("o", "i", "y", "x"): "nn.Conv2d",
}
"""The axes of the weights that peft has a LoRA for, and the module whose weight has them."""

MODULATED = (
    "StyleGAN2 modulates its weights, and so its convolutions are no nn.Conv2d: peft can merge this adapter into "
    "nn.Conv2d modules of the same names (docs/supply-chain.md shows how), but cannot run it beside the model."
)


def export_peft(patches: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """The change of a stack as a LoRA in the folder `out`, which peft loads.

    Returns
    -------
    dict
        ``modules``: for each that changes the ``kind`` that it has to be and its ``rank``;
        ``notes``: what peft cannot do with it.

    Raises
    ------
    PatchError
        The patches do not follow one another, or change what is not the weight of a linear layer or
        a convolution.
    FileError
        Something else lies at `out`.
    """
    stack, out = chained(patches), Path(out)
    _require_adapter_or_free(out)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for name in _parameters(stack):
        module = name.removesuffix(".weight")
        axes = _adaptable(stack, name)
        parts = [lora_factors(patch, name) for patch in stack if name in patch.parameters]
        a, b = torch.cat([a for a, _ in parts], dim=0), torch.cat([b for _, b in parts], dim=1)
        tensors |= {
            f"base_model.model.{module}.lora_A.weight": a,
            f"base_model.model.{module}.lora_B.weight": b,
        }
        kinds[module], ranks[module] = ADAPTABLE[axes], len(a)
    write(out / ADAPTER, safetensors_bytes(tensors, _said(stack, "peft")))
    configuration = _configuration(ranks)
    write(
        out / CONFIGURATION, (json.dumps(configuration, indent=2, sort_keys=True) + "\n").encode()
    )
    modules = {module: {"kind": kinds[module], "rank": rank} for module, rank in ranks.items()}
    notes = [MODULATED] if stack[0].metadata["family"] == "stylegan2" else []
    return {"format": "peft", "out": str(out), "modules": modules, "notes": notes}


def lora_factors(patch: Patch, parameter: str) -> tuple[Tensor, Tensor]:
    """The change of a parameter as B A: of a matrix A [r, in] and B [out, r], of a convolution with
    the taps of the weight behind A, and as many taps of 1 behind B.

    A change A' D of s directions has r = s times the number of taps: A has each row of D at each
    tap alone, and B is A' (paper Eqn. 17). A change without a rank limit has r = out: A is the
    change, and B the identity. Both are exact.
    """
    axes = _axes(patch, parameter)
    if parameter in patch.deltas:
        delta = patch.deltas[parameter]
        a = delta.reshape(delta.shape[delta.ndim - len(axes) :])
        b = torch.eye(len(a), dtype=a.dtype)
    else:
        directions, coefficients = patch.directions[parameter], patch.coefficients[parameter]
        taps = coefficients.shape[coefficients.ndim - len(axes) + 2 :]
        (rank, channels), count = directions.shape, taps.numel()
        placed = directions.new_zeros(rank, count, channels, count)
        placed.diagonal(dim1=1, dim2=3).copy_(directions[:, :, None])
        a, b = (
            placed.reshape(rank * count, channels, *taps),
            coefficients.reshape(len(coefficients), rank * count),
        )
    return a, b.reshape(*b.shape, *(1,) * (len(axes) - 2))


def _configuration(ranks: dict[str, int]) -> dict[str, Any]:
    """What peft has to know of an adapter, whose alpha is its rank: nothing is scaled."""
    largest = max(ranks.values())
    patterns = {f"^{re.escape(module)}": rank for module, rank in ranks.items()}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        # As an expression, as a plain name would mean every module whose name ends with it.
        "target_modules": "|".join(re.escape(module) for module in ranks),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
    }


def _adaptable(stack: Sequence[Patch], parameter: str) -> tuple[str, ...]:
    """The axes of a parameter. Raises a `PatchError` where peft has no LoRA for it."""
    patch = next(patch for patch in stack if parameter in patch.parameters)
    axes = _axes(patch, parameter)
    if parameter.endswith(".weight") and axes in ADAPTABLE:
        return axes
    what = (
        "a transposed convolution"
        if axes[0] == "i"
        else "no weight of a linear layer or a convolution"
    )
    raise PatchError(
        f"{patch.name} changes {parameter}, which is {what}, and peft has no LoRA for that.",
        "Export it with --format delta or --format full.",
    )


def _axes(patch: Patch, parameter: str) -> tuple[str, ...]:
    """The axes of a parameter without those that are always 1."""
    return tuple(axis for axis in str(patch.metadata["layouts"][parameter]).split() if axis != "1")


def export_delta(patches: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """The change of each parameter by a stack, by its name and in its shape, as the safetensors
    file `out`.

    The changes are summed up in float64 and rounded once to the precision of the patches. Raises as
    `export_peft`, of whatever parameters.
    """
    stack, out = chained(patches), Path(out)
    require_free_export(out)
    tensors = {}
    for name in _parameters(stack):
        changing = [patch for patch in stack if name in patch.parameters]
        axes = str(changing[0].metadata["layouts"][name]).split()
        total = changing[0].stored(name)
        for patch in changing[1:]:
            total = total.reshape(patch.stored(name).shape) + patch.stored(name)
        dtype = next(iter(changing[0].tensors().values())).dtype
        shape = total.shape[total.ndim - sum(axis != "1" for axis in axes) :]
        tensors[name] = total.reshape(*(1,) * axes.count("1"), *shape).to(dtype)
    write(out, safetensors_bytes(tensors, _said(stack, "delta")))
    return {"format": "delta", "out": str(out), "tensors": _shapes(tensors)}


def export_full(
    patches: Sequence[Path | str], out: Path | str, model: str | Path
) -> dict[str, Any]:
    """The parameters that a stack changes as they are after it, by their names in the generator of
    `model`.

    Raises `PatchError` where the stack was not built from these weights, and as `export_delta`.
    """
    stack, out = chained(patches), Path(out)
    require_free_export(out)
    path = weights_path(str(model), Path())
    checkpoint = read_checkpoint(path)
    require_belonging(path, checkpoint.metadata, checkpoint.digest(), stack)
    weights = apply_stack(checkpoint.generator, stack)
    require_named(tensors_digest(weights), stack)
    tensors = {name: weights[name] for name in _parameters(stack)}
    write(out, safetensors_bytes(tensors, _said(stack, "full")))
    return {"format": "full", "out": str(out), "tensors": _shapes(tensors)}


def as_text(found: dict[str, Any]) -> str:
    """What was exported, for people."""
    lines = [
        f"{name}: {entry['kind']}, LoRA of rank {entry['rank']}"
        for name, entry in found.get("modules", {}).items()
    ]
    lines += [
        f"{name}: {' x '.join(map(str, shape))}" for name, shape in found.get("tensors", {}).items()
    ]
    return "\n".join([*lines, *found.get("notes", []), found["out"]])


def _parameters(stack: Sequence[Patch]) -> list[str]:
    return sorted({name for patch in stack for name in patch.parameters})


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _said(stack: Sequence[Patch], form: str) -> dict[str, Any]:
    """What an exported file says of itself: from which weights to which its change goes, and by
    which patches.
    """
    first, last = stack[0].metadata, stack[-1].metadata
    contents = [patch.metadata["content"] for patch in stack]
    chain = {
        "base": first["base"],
        "parent": first["parent"],
        "result": last["result"],
        "patches": contents,
    }
    return {"format": EXPORT_FORMAT, "version": 1, "form": form, **chain}


def _require_adapter_or_free(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no adapter that editspec
    exported.
    """
    if out.is_dir() and any(out.iterdir()):
        require_free_export(out / ADAPTER)
        if {path.name for path in out.iterdir()} <= {ADAPTER, CONFIGURATION} and (
            out / ADAPTER
        ).exists():
            return
    elif out.is_dir() or not out.exists():
        return
    raise FileError(
        f"{out} is in the way: editspec did not export it.", "Give a new or empty folder."
    )
