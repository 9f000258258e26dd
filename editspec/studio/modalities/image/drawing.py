"""Pictures and heat maps as PNG files."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import context_direction, generator_of
from editspec.modalities.image.pictures import png_bytes, to_image
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_runtime.modalities.image.retrieval import respond_on_map


@torch.no_grad()
def light(session: BuildSession, layer: str, latents: Tensor) -> Tensor:
    """Measure where an image has the key of a context.

    Takes latents [1, latent_size] and gives a map [height, width] in 0..1; 1 is the median
    response of the context's own keys, or more.
    """
    generator = generator_of(session)
    direction = context_direction(session, 0, generator)
    keys, _ = find_context_keys(session.loaded, 0, generator)
    own = float((keys @ direction).median())
    response = respond_on_map(generator.trace(layer, latents.to(keys)).key, direction)[0]
    # The median may be 0 or negative; a division by it would turn the map into NaN or upside down.
    smallest = torch.finfo(keys.dtype).tiny
    return (response / max(own, smallest)).clamp(0, 1)


def encode(images: Tensor) -> bytes:
    """Encode the first of some images [n, 3, height, width] in -1..1 as a PNG."""
    return png_bytes(to_image(images[0].float().cpu()))


def encode_grey(light: Tensor) -> bytes:
    """Encode a map [height, width] in 0..1 as a grey PNG."""
    levels = (light * 255).round().to(torch.uint8).cpu()
    return png_bytes(Image.fromarray(levels.numpy()))
