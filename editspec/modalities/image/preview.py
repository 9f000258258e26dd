"""Images of a latent stream as a model draws them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.opening import open_weights
from editspec.modalities.image.pictures import before_and_after
from editspec_runtime.io.weights import Weights
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS


@torch.no_grad()
def render_stream(
    generator: Generator, count: int, seed: int = REPORTS, sampler: str = "keyed"
) -> Tensor:
    """Draw the first `count` images of a latent stream.

    Returns
    -------
    Tensor
        [count, 3, size, size] in -1..1, float32, on the CPU.
    """
    stream = LatentStream(seed, generator.architecture.latent_size, sampler)
    return render_images(generator, stream.items(range(count))).float().cpu()


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and the path that they are named by in errors."""

    weights: Weights
    path: Path


def draw_checkpoints(
    first: Checkpoint, second: Checkpoint, count: int, labels: tuple[str, str]
) -> Image.Image:
    """Draw the first `count` images of a latent stream with two checkpoints.

    Raises `WeightsError` where a checkpoint is of no family.
    """
    above, below = (_render_checkpoint(each, count) for each in (first, second))
    return before_and_after(above, below, labels)


def _render_checkpoint(checkpoint: Checkpoint, count: int) -> Tensor:
    """Draw the first `count` images of a latent stream with a checkpoint."""
    generator = require_generator(open_weights(checkpoint.weights, checkpoint.path))
    return render_stream(generator, count)
