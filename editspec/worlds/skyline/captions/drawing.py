"""Pictures of captions, drawn by a pipeline of diffusers from seeded noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from editspec.worlds.skyline.world import SIZE

STEPS = 8
"""Steps of drawing; more of them change little."""

GUIDANCE = 2.0
"""How far pictures are led away from those of the empty caption; 1 is not at all."""

BATCH = 50
"""Pictures drawn at once."""


@torch.no_grad()
def draw_pictures(
    pipeline: Any,
    texts: list[str],
    seed: int = 0,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = BATCH,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Draw the pictures [n, 3, 64, 64] in -1..1 of captions.

    Every picture begins at noise of its own, which `seed` and its number decide.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(texts), 3, SIZE, SIZE, generator=generator)
    drawn = []
    for begin in range(0, len(texts), batch):
        some = slice(begin, begin + batch)
        result = pipeline(
            texts[some],
            latents=noise[some].to(pipeline.device, pipeline.unet.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        )
        drawn.append(result.images.float().cpu().clamp(-1, 1))
        progress(min(begin + batch, len(texts)), len(texts))
    return torch.cat(drawn)
