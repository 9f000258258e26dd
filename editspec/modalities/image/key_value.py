"""Pictures of a layer as a memory of keys and values (paper Fig. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_compiler.modalities.image.expected import SourceValue
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.retrieval import respond_on_map

SEARCHED = 256
"""The number of images that a key is looked for in."""


@torch.no_grad()
def draw_alone(
    generator: Generator, layer: str, values: list[SourceValue]
) -> tuple[Tensor, Tensor]:
    """Draw the images that values come from, and each value by itself.

    Returns two batches [n, 3, size, size]. For the second, features elsewhere are zero, and so is
    the image that the layers before have drawn (paper Fig. 2d).
    """
    whole, alone = [], []
    for value in values:
        reached = value.trace
        whole.append(generator.forward_from(layer, generator.layer_value(layer, reached), reached))
        tensors = generator.carried_tensors(reached)
        fresh = generator.trace_from_tensors(reached.key, tensors)
        alone.append(generator.forward_from(layer, value.value, fresh))
    return torch.cat(whole), torch.cat(alone)


@torch.no_grad()
def find_matches(
    generator: Generator,
    layer: str,
    direction: Tensor,
    stream: LatentStream,
    count: int,
    compatibility: Compatibility,
) -> tuple[Tensor, Tensor, list[int]]:
    """Find the images of a stream in which a key matches best (paper Fig. 2c).

    Parameters
    ----------
    direction
        C^-1 k of the key, [in_channels]: its product with a key k' says how well k' matches.
    stream, count
        The latent stream, and the number of images to find among its first `SEARCHED` items (or
        the first `count`, where that is more).

    Returns
    -------
    tuple
        Images [count, 3, size, size], best first; matches [count, key_size, key_size], from 0 for
        no match to 1 for the best of all; and the numbers of the images in the stream.
    """
    total, chunk = max(SEARCHED, count), compatibility.chunk
    # One memory for all: small maps of their own would lie between large keys that are gone.
    maps = direction.new_empty(total, *generator.architecture.layers[layer].key_shape)
    latents = []
    for start in range(0, total, chunk):
        numbers = range(start, min(start + chunk, total))
        these = stream.items(numbers).to(direction)
        for number, latent in zip(numbers, these, strict=True):
            key = generator.trace(layer, latent[None]).key
            maps[number] = respond_on_map(key, direction)[0]
        latents.append(these)
    best = maps.flatten(1).amax(1)
    order = best.argsort(descending=True, stable=True)[:count]
    images = render_images(generator, torch.cat(latents)[order])
    light = (maps[order] / best.max().clamp_min(torch.finfo(maps.dtype).tiny)).clamp(0, 1)
    return images, light, order.tolist()
