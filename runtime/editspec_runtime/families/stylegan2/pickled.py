"""A reader of the generator in a pickle of NVIDIA's training."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.shapes import list_problems
from editspec_runtime.families.stylegan2.nvidia import CLAMP
from editspec_runtime.io.pickles import Module, read_pickle

LINEAR = (".affine.", ".embed.")
"""Modules without an activation, by the ends of their names."""


def read_nvidia_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of ``G_ema``, or of the generator alone.

    The clamp of its activations is one of them where it has one. Raises `FileError` where the file
    is damaged or holds code, and `WeightsError` where the file holds no generator, or one that
    computes otherwise than the StyleGAN2 that is known here.
    """
    content = read_pickle(path)
    found = type(content).__name__
    module = content
    if isinstance(content, dict):
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        module = content.get("G_ema")
    if not isinstance(module, Module):
        raise WeightsError(
            f"{path} holds no generator: expected G_ema, found {found}.",
            "Give the pickle that NVIDIA's training wrote (network-snapshot-….pkl).",
        )
    problems = _differences(module)
    if problems:
        raise WeightsError(
            f"{path} holds a {module.name} that is not the StyleGAN2 known here:\n"
            f"{list_problems(problems)}",
            "Generators of the configurations paper256, paper512, paper1024, stylegan2 and auto "
            "with skip connections are read.",
        )
    # Tensors of a pickle may share their memory, which a safetensors file cannot say.
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _, part in module.walk():
        clamp = part.attributes.get("conv_clamp")
        if clamp:
            # All layers have the same, which `_differences` has checked.
            tensors[CLAMP] = torch.tensor(float(clamp))
            break
    return tensors


def _differences(module: Module) -> list[str]:
    """List how a generator differs from the one that the network computes, in words."""
    problems, clamps = [], set()
    for prefix, part in module.walk():
        attributes = part.attributes
        if attributes.get("architecture", "skip") != "skip":
            problems.append(f"{prefix}architecture is {attributes['architecture']}, expected skip")
        if "conv_clamp" in attributes:
            clamps.add(attributes["conv_clamp"])
        activation = attributes.get("activation")
        known = "linear" if prefix.endswith(LINEAR) else "lrelu"
        if activation not in (None, known):
            problems.append(f"{prefix}activation is {activation}, expected {known}")
        gain, weight = attributes.get("weight_gain"), part.state_dict().get("weight")
        if prefix.startswith("mapping.fc") and gain is not None and weight is not None:
            # Another learning rate of the mapping is another factor of its weights.
            wanted = 0.01 / math.sqrt(weight.shape[1])
            if abs(gain - wanted) > 1e-6 * wanted:
                problems.append(
                    f"{prefix}weight_gain is {gain:g}, expected {wanted:g} (a learning rate of "
                    "0.01)"
                )
    if len(clamps) > 1:
        values = ", ".join(sorted(map(str, clamps)))
        problems.append(f"its layers are clamped to different values: {values}")
    return problems
