"""Draws the masks of the recipes: ``python specs/skyline/make_masks.py``. The world knows where everything stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from editspec_runtime.latents import LatentStream
from editspec_runtime.skyline.world import LATENT_SIZE, left_top, part_mask, people, right_top, scenes, windows

MASKS = Path(__file__).with_name("masks")


def draw(name: str, latent: int, part: Callable[..., None], *more: Callable[..., None]) -> None:
    """Write masks/NAME-LATENT.png: all that some parts of the scene of a latent cover."""
    scene = scenes(LatentStream(1, LATENT_SIZE).items([latent]))
    area = torch.stack([part_mask(each, scene)[0] for each in (part, *more)]).amax(0)
    Image.fromarray((area * 255).round().byte().numpy()).save(MASKS / f"{name}-{latent}.png", optimize=True)


def main() -> None:
    """Draw all masks."""
    MASKS.mkdir(exist_ok=True)
    for latent in (8, 18, 21, 24):
        draw("domes", latent, left_top, right_top)
    for latent in (9, 10, 19, 24):
        draw("windows", latent, windows)
    for latent in (2, 3, 6, 8, 12, 14):
        draw("people", latent, people)
    for latent in (1, 4, 6, 7, 9, 10, 14, 28):
        draw("left-spire", latent, left_top)
    for latent in (2, 3, 5, 13, 14, 16, 17, 31):
        draw("right-spire", latent, right_top)


if __name__ == "__main__":
    main()
