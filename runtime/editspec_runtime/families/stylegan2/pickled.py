"""A reader of the generator in a pickle of NVIDIA's training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from editspec_runtime.families.stylegan2.nvidia import CLAMP, SKIP, WIRINGS
from editspec_runtime.io.pickles import Module

AROUND = ".skip."
"""The end of the names of residual connections, which are never clamped."""

LINEAR = (".affine.", ".embed.", AROUND)
"""Modules without an activation, by the ends of their names."""


def read_module(module: Module) -> tuple[dict[str, Tensor] | None, list[str]]:
    """Read the tensors of a generator, the clamp of its activations among them where it has one.

    Returns None for a module of another kind; the list says how a generator computes otherwise than
    the StyleGAN2 that is known here.
    """
    tensors = module.state_dict()
    if "synthesis.input.freqs" in tensors:
        return None, [_describe_stylegan3(tensors)]
    if "synthesis.b4.const" not in tensors:
        return None, []
    for _, part in module.walk():
        clamp = part.attributes.get("conv_clamp")
        if clamp:
            # All layers have the same, which `_differences` checks.
            tensors[CLAMP] = torch.tensor(float(clamp))
            break
    return tensors, _differences(module)


def _describe_stylegan3(state: Mapping[str, Tensor]) -> str:
    """Describe the generator of the next paper, which is known by name alone."""
    taps = [t.shape[-1] for name, t in state.items() if re.search(r"\.L0_\d+_\d+\.weight$", name)]
    configuration = "R" if taps == [1] else "T"
    return (
        f"it is a StyleGAN3 of configuration {configuration}, whose layers filter the maps before "
        "and behind their activation; StyleGAN3 is known by name alone, and cannot be edited"
    )


def _differences(module: Module) -> list[str]:
    """List how a generator differs from the one that the network computes, in words."""
    problems, clamps = [], set()
    for prefix, part in module.walk():
        attributes = part.attributes
        wiring = _plain(attributes.get("architecture", SKIP))
        if wiring not in WIRINGS:
            expected = ", ".join(WIRINGS[:-1])
            problems.append(
                f"{prefix}architecture is {wiring}, expected {expected} or {WIRINGS[-1]}"
            )
        if "conv_clamp" in attributes and not prefix.endswith(AROUND):
            clamps.add(_plain(attributes["conv_clamp"]))
        activation = _plain(attributes.get("activation"))
        known = "linear" if prefix.endswith(LINEAR) else "lrelu"
        if activation not in (None, known):
            problems.append(f"{prefix}activation is {activation}, expected {known}")
        gain, weight = _plain(attributes.get("weight_gain")), part.state_dict().get("weight")
        if not prefix.startswith("mapping.fc") or weight is None:
            continue
        if isinstance(gain, int | float):
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


def _plain(value: object) -> str | float | None:
    """A setting of a module; of anything but a text or a number its type, which can be shown."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    return type(value).__name__
