"""Images of a latent stream as a model draws them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.opening import known_architecture
from editspec_runtime.families.open import make_model
from editspec_runtime.io.weights import Weights
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS


@torch.no_grad()
def render_stream(
    generator: Generator, count: int, seed: int = REPORTS, sampler: str = "keyed"
) -> Tensor:
    """The first `count` images of a latent stream, on the CPU.

    Returns
    -------
    Tensor
        [count, 3, size, size] in -1..1, float32.
    """
    stream = LatentStream(seed, generator.architecture.latent_size, sampler)
    return render_images(generator, stream.items(range(count))).float().cpu()


def render_checkpoint(checkpoint: Weights, path: Path, count: int, seed: int = REPORTS) -> Tensor:
    """The first `count` images of a latent stream as a checkpoint draws them, on the CPU.

    Raises `WeightsError` where the checkpoint is of no family.
    """
    family = known_architecture(checkpoint, path).family
    return render_stream(make_model(family, checkpoint), count, seed)
