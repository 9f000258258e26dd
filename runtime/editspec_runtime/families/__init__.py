"""The families of generators that can be edited, and what their tensors say of them. Imports no
torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from editspec_runtime.core.architecture import Architecture
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.proggan.architecture import read_architecture as read_proggan
from editspec_runtime.families.stylegan2.architecture import read_architecture as read_stylegan2
from editspec_runtime.io.files import TensorInfo


@dataclass(frozen=True)
class Family:
    """An adapter: what it is called, what it can load, and how it reads a layout from names and
    shapes.

    `read_architecture` is None where names and shapes do not tell: of a torch network, its modules
    do.
    """

    name: str
    description: str
    loads: str
    read_architecture: Callable[[Mapping[str, TensorInfo]], Architecture] | None


FAMILIES: dict[str, Family] = {
    "stylegan2": Family(
        "stylegan2",
        "StyleGAN2 generators with skip connections, any channel table, 8x8 to 1024x1024",
        "rosinality checkpoints: .pt (g_ema and latent_avg, or the bare state dict), or their names in .safetensors; "
        "NVIDIA's .pkl of stylegan2-ada-pytorch and stylegan3 (StyleGAN2 configurations, class-conditional too)",
        read_stylegan2,
    ),
    "proggan": Family(
        "proggan",
        "Progressive GAN generators, whose layers are linear from key to value",
        "the layout of the paper's authors (layerN.conv.weight, layerN.wscale.b, output_HxW.*): .pth or .pt (a state "
        "dict, bare or under state_dict), and the same names in .safetensors",
        read_proggan,
    ),
    "torch": Family(
        "torch",
        "any torch network from latents to images or vectors; its Linear, Conv1d, Conv2d and ConvTranspose2d layers",
        "state dicts in .safetensors and .pt, with model.module in the spec; files of torch.export (.pt2) alone",
        None,
    ),
}


def read_architecture(family: str, tensors: Mapping[str, TensorInfo]) -> Architecture:
    """The layers, image size and latent size of a generator of this family, from the names and
    shapes of its tensors.

    `tensors` are named as inside ``g_ema``. Raises `WeightsError` for an unknown family or tensors
    that do not fit it.
    """
    if family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, n=1)
        raise WeightsError(
            f"There is no family {family!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            f"The families are: {', '.join(FAMILIES)}.",
        )
    read = FAMILIES[family].read_architecture
    if read is None:
        raise WeightsError(
            f"The tensors alone do not tell the layers of a {family} network.",
            "Write a spec with model.module; editspec inspect SPEC --allow-code lists them.",
        )
    return read(tensors)
