"""Images of latents."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.maths.parallel import map_parts, separate_models
from editspec_runtime.maths.sampled_keys import numbers_per_item
from editspec_runtime.modalities.image.generator import Generator

LARGEST_BATCH = 2**20
"""Pixels that are drawn at a time: 16 images of 256 x 256, one of 1024 x 1024."""


def render_images(generator: Generator, latents: Tensor, *, batch: int = 1) -> Tensor:
    """Draw images [n, 3, size, size] of latents [n, latent_size], not clamped.

    The images are in the precision and on the device of the generator. The result is
    differentiable in the weights: call this under `torch.no_grad` where no gradient is needed.
    Several batches are drawn at once on a CPU, each by one thread.

    Parameters
    ----------
    generator
        The model that draws.
    latents
        On any device, in any precision.
    batch
        Latents that are drawn together. Default: 1, as other batches give other last bits, and
        under the authors' compatibility other noise, which goes by the place in a batch.
    """
    parts = torch.split(generator.to_model(latents), batch)
    last = list(generator.architecture.layers)[-1]
    # Behind a layer its map, the next one and the picture so far are held at once.
    numbers = 2 * batch * numbers_per_item(generator, last)
    generators = separate_models(generator, numbers, len(parts))
    return torch.cat(list(map_parts([each.images for each in generators], parts)))


@torch.no_grad()
def render_clamped(generator: Generator, latents: Tensor) -> Tensor:
    """Draw images [n, 3, size, size] of latents, clamped to -1..1 as in a file.

    For measures over many images, which are drawn in batches of up to 16.
    """
    return render_images(generator, latents, batch=fitting_batch(generator)).clamp(-1, 1)


def fitting_batch(generator: Generator) -> int:
    """Return how many images of a model measures draw together."""
    fitting = LARGEST_BATCH // generator.architecture.image_size**2
    return max(1, min(16, fitting))
