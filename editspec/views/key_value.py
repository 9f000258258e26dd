"""A layer as a memory, made visible: what a value draws, and where a key matches (paper Fig. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_compiler.modalities.image.resolve import ValueAlone
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

SEARCHED = 256
"""Images that a key is looked for in."""


@torch.no_grad()
def drawn_alone(
    generator: Generator, layer: str, values: list[ValueAlone]
) -> tuple[Tensor, Tensor]:
    """The images that values come from, and what each value draws by itself: two batches [n, 3,
    size, size].

    Features elsewhere are zero, and so is the image that the layers before have drawn (paper Fig.
    2d).
    """
    whole, alone = [], []
    for value in values:
        reached = value.reached
        whole.append(generator.rest(layer, generator.value(layer, reached), reached.carried))
        alone.append(
            generator.rest(layer, value.value, generator.unpack(generator.pack(reached.carried)))
        )
    return torch.cat(whole), torch.cat(alone)


@torch.no_grad()
def matches(
    generator: Generator,
    layer: str,
    direction: Tensor,
    stream: LatentStream,
    count: int,
    conventions: Compatibility,
) -> tuple[Tensor, Tensor, list[int]]:
    """The images of a stream in which a key matches best, and how well it does at each position
    (paper Fig. 2c).

    Parameters
    ----------
    direction
        C^-1 k of the key, [in_channels]: a key k' matches as well as its product with it says.
    stream, count
        Of the first `SEARCHED` items (or `count` where that is more), the `count` with the best
        match anywhere.

    Returns
    -------
    tuple
        Images [count, 3, size, size], best first; matches [count, key_size, key_size]: 1 for the
        best of all, 0 for none; and which items of the stream these are.
    """
    found, latents = [], []
    total, chunk = max(SEARCHED, count), conventions.statistics_chunk
    for start in range(0, total, chunk):
        these = stream.items(range(start, min(start + chunk, total))).to(direction)
        for latent in these:
            key = generator.prefix(layer, latent[None]).key[0]
            found.append(torch.einsum("ihw,i->hw", key, direction))
        latents.append(these)
    maps = torch.stack(found)
    best = maps.flatten(1).amax(1)
    order = best.argsort(descending=True, stable=True)[:count]
    images = torch.cat([generator.images(latent[None]) for latent in torch.cat(latents)[order]])
    light = (maps[order] / best.max().clamp_min(torch.finfo(maps.dtype).tiny)).clamp(0, 1)
    return images, light, order.tolist()
