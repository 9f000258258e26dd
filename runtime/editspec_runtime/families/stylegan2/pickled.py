"""The generator in a pickle of NVIDIA's training: its tensors, and what else images depend on."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.stylegan2.nvidia import CLAMP
from editspec_runtime.io.files import read_pickle
from editspec_runtime.io.pickles import Module

LINEAR = (".affine.", ".embed.")
"""Modules without an activation, by the ends of their names."""


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of ``G_ema`` (or of the generator alone), and the clamp of its activations where
    it has one.

    Raises `FileError` where the file is damaged or holds code, and `WeightsError` where it holds
    no generator, or one that computes otherwise than the StyleGAN2 that is known here.
    """
    content = read_pickle(path)
    module = content.get("G_ema") if isinstance(content, dict) else content
    if not isinstance(module, Module):
        found = (
            ", ".join(map(str, list(content)[:8]))
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise WeightsError(
            f"{path} holds no generator: expected G_ema, found {found or 'nothing'}."
        )
    problems = _differences(module)
    if problems:
        raise WeightsError(
            f"{path} holds a {module.name} that is not the StyleGAN2 known here:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    # Tensors of a pickle may share their memory, which a safetensors file cannot say.
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    clamp = next(
        (m.attributes["conv_clamp"] for _, m in module.walk() if m.attributes.get("conv_clamp")),
        None,
    )
    return tensors | ({} if clamp is None else {CLAMP: torch.tensor(float(clamp))})


def _differences(module: Module) -> list[str]:
    """How a generator differs from what the network computes, in words."""
    problems, clamps = [], set()
    for prefix, part in module.walk():
        attributes = part.attributes
        if attributes.get("architecture", "skip") != "skip":
            problems.append(f"{prefix}architecture is {attributes['architecture']}, expected skip")
        if "conv_clamp" in attributes:
            clamps.add(attributes["conv_clamp"])
        activation, known = (
            attributes.get("activation"),
            "linear" if prefix.endswith(LINEAR) else "lrelu",
        )
        if activation not in (None, known):
            problems.append(f"{prefix}activation is {activation}, expected {known}")
        gain, weight = attributes.get("weight_gain"), part.state_dict().get("weight")
        if prefix.startswith("mapping.fc") and gain is not None and weight is not None:
            wanted = 0.01 / math.sqrt(weight.shape[1])
            if abs(gain - wanted) > 1e-6 * wanted:
                problems.append(
                    f"{prefix}weight_gain is {gain:g}, expected {wanted:g} (a learning rate of 0.01)"
                )
    if len(clamps) > 1:
        problems.append(
            f"its layers are clamped to different values: {', '.join(sorted(map(str, clamps)))}"
        )
    return problems
