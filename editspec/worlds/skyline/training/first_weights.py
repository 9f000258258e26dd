"""The weights that the training starts from, and their file."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE
from editspec_runtime.io.files import safetensors_bytes

DRAWN_FROM = 32
"""Positions a side of the first features that draw."""

COLOURS = (0, 2, 3, 4, 7)
"""The numbers of w that features that draw can see, in the order of `attribute_loss`."""

CHANNELS = {4: 128, 8: 128, 16: 128, 32: 96, 64: 48}
"""Channels of the features, by positions a side."""

MAPPING_LAYERS = 6
SEED = 2020


def first_weights() -> dict[str, Tensor]:
    """Make the first weights of StyleGAN2, by their published names inside ``g_ema``."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # The blur of StyleGAN2; its sum is 4, as upsampling puts three zeros next to every value.
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 16
    weights = {"input.input": normal(1, CHANNELS[4], 4, 4)}
    for number in range(1, MAPPING_LAYERS + 1):
        weights |= {
            f"style.{number}.weight": normal(LATENT_SIZE, LATENT_SIZE) / 0.01,
            f"style.{number}.bias": torch.zeros(LATENT_SIZE),
        }
    blocks = [("conv1", 4, 4)]
    for index, size in enumerate(sorted(CHANNELS)[1:]):
        blocks += [(f"convs.{2 * index}", size // 2, size), (f"convs.{2 * index + 1}", size, size)]
    for number, (name, before, size) in enumerate(blocks):
        weights |= {
            f"{name}.conv.weight": normal(1, CHANNELS[size], CHANNELS[before], 3, 3),
            f"{name}.conv.modulation.weight": normal(CHANNELS[before], LATENT_SIZE),
            f"{name}.conv.modulation.bias": torch.ones(CHANNELS[before]),
            f"{name}.noise.weight": torch.zeros(1),
            f"{name}.activate.bias": torch.zeros(CHANNELS[size]),
            f"noises.noise_{number}": normal(1, 1, size, size),
        }
        if size >= DRAWN_FROM:
            blind_to_attributes(weights[f"{name}.conv.modulation.weight"])
        if before != size:
            weights[f"{name}.conv.blur.kernel"] = kernel.clone()
            continue
        rgb = "to_rgb1" if size == 4 else f"to_rgbs.{number // 2 - 1}"
        weights |= {
            f"{rgb}.conv.weight": normal(1, 3, CHANNELS[size], 1, 1) * (size >= DRAWN_FROM),
            f"{rgb}.conv.modulation.weight": normal(CHANNELS[size], LATENT_SIZE),
            f"{rgb}.conv.modulation.bias": torch.ones(CHANNELS[size]),
            f"{rgb}.bias": torch.zeros(1, 3, 1, 1),
        }
        if size >= DRAWN_FROM:
            blind_to_attributes(weights[f"{rgb}.conv.modulation.weight"])
        if size != 4:
            weights[f"{rgb}.upsample.kernel"] = kernel.clone()
    return weights


def blind_to_attributes(modulation: Tensor) -> None:
    """Zero a modulation's weight, or its gradient, for all numbers of w but colours.

    `modulation` [channels, style_dim] is changed in place.
    """
    seen = torch.zeros(modulation.shape[1], dtype=torch.bool, device=modulation.device)
    seen[list(COLOURS)] = True
    modulation[:, ~seen] = 0


def checkpoint_bytes(weights: dict[str, Tensor]) -> bytes:
    """Write the weights in the published checkpoint layout, as safetensors."""
    named = {
        name if name == "latent_avg" else f"g_ema.{name}": tensor
        for name, tensor in weights.items()
    }
    return safetensors_bytes(named, {})
