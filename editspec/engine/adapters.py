"""Patches as adapters of peft: a LoRA for every weight that changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.errors import PatchError
from editspec_runtime.patches.patch import Patch

ADAPTER, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
"""The two files that peft keeps an adapter in."""

INPUTS_FIRST = "Conv1D"
"""The module of transformers whose weight is [in, out], as GPT-2 has it."""

ADAPTABLE = {
    ("o", "i"): "nn.Linear",
    ("i", "o"): INPUTS_FIRST,
    ("o", "i", "x"): "nn.Conv1d",
    ("o", "i", "y", "x"): "nn.Conv2d",
}
"""The axes of the weights that peft has a LoRA for, and the module whose weight has them."""


def lora_factors(patch: Patch, parameter: str) -> tuple[Tensor, Tensor]:
    """The change of a parameter as B A: A [r, in] and B [out, r].

    A convolution has the taps of the weight behind A, and as many taps of 1 behind B. A change
    A' D of s directions has r = s times the number of taps: A has each row of D at each tap alone,
    and B is A' (paper Eqn. 17). A change without a rank limit has r = out: A is the change, and B
    the identity. Both are exact.
    """
    axes = _axes(patch, parameter)
    if parameter in patch.deltas:
        delta = patch.deltas[parameter]
        if axes == ("i", "o"):
            delta = delta.mT.contiguous()
        a = delta.reshape(delta.shape[delta.ndim - len(axes) :])
        b = torch.eye(len(a), dtype=a.dtype)
    else:
        directions, coefficients = patch.directions[parameter], patch.coefficients[parameter]
        taps = coefficients.shape[coefficients.ndim - len(axes) + 2 :]
        (rank, channels), count = directions.shape, taps.numel()
        # [rank, tap of the factor, in, tap of the weight]: the diagonal of the two taps is D.
        placed = directions.new_zeros(rank, count, channels, count)
        placed.diagonal(dim1=1, dim2=3).copy_(directions[:, :, None])
        a = placed.reshape(rank * count, channels, *taps)
        b = coefficients.reshape(len(coefficients), rank * count)
    return a, b.reshape(*b.shape, *(1,) * (len(axes) - 2))


def join_factors(stack: Sequence[Patch], parameter: str) -> tuple[Tensor, Tensor]:
    """The change of a parameter by a stack as B A, as `lora_factors` gives those of a patch."""
    parts = [lora_factors(patch, parameter) for patch in stack if parameter in patch.parameters]
    # B_1 A_1 + B_2 A_2 = [B_1 B_2] [A_1; A_2]: the sum of LoRAs is a LoRA of stacked factors.
    a = torch.cat([a for a, _ in parts], dim=0)
    b = torch.cat([b for _, b in parts], dim=1)
    return a, b


def adapter_configuration(ranks: dict[str, int], *, inputs_first: bool = False) -> dict[str, Any]:
    """The configuration of an adapter, as peft reads it.

    `inputs_first` says whether the weights are stored [in, out], as in a ``Conv1D``.
    """
    largest = max(ranks.values())
    patterns = {f"^{re.escape(module)}": rank for module, rank in ranks.items()}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": inputs_first,
        "lora_dropout": 0.0,
        # As an expression, as a plain name would mean every module whose name ends with it.
        "target_modules": "|".join(re.escape(module) for module in ranks),
        "r": largest,
        # peft multiplies B A by alpha / r, so that equal numbers scale nothing.
        "lora_alpha": largest,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
    }


def adaptable_axes(stack: Sequence[Patch], parameter: str) -> tuple[str, ...]:
    """The axes of a parameter. Raises a `PatchError` where peft has no LoRA for it."""
    patch = next(patch for patch in stack if parameter in patch.parameters)
    axes = _axes(patch, parameter)
    if parameter.endswith(".weight") and axes in ADAPTABLE:
        return axes
    what = "not the weight of a linear layer or a convolution"
    if axes[:1] == ("i",):
        what = "a transposed convolution"
    raise PatchError(
        f"{patch.name} changes {parameter}, which is {what}, and peft has no LoRA for that.",
        "Export it with --format delta or --format full.",
    )


def _axes(patch: Patch, parameter: str) -> tuple[str, ...]:
    """The axes of a parameter without those that are always 1."""
    axes = str(patch.metadata["layouts"][parameter]).split()
    return tuple(axis for axis in axes if axis != "1")
