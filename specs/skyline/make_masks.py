"""Draws the masks of the recipes: ``python specs/skyline/make_masks.py``. The world knows where everything stands."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from editspec_runtime.latents import LatentStream
from editspec_runtime.skyline.world import LATENT_SIZE, Scene, left_top, part_mask, right_top, scenes, windows

MASKS = Path(__file__).with_name("masks")
PARTS = {"left-top": left_top, "right-top": right_top, "windows": windows}


def scene_of(latent: int) -> Scene:
    """The scene of one latent of the default stream."""
    return scenes(LatentStream(1, LATENT_SIZE).items([latent]))


def draw(part: str, latent: int) -> None:
    """Write the mask of a part of the scene of a latent."""
    area = part_mask(PARTS[part], scene_of(latent))[0]
    Image.fromarray((area * 255).round().byte().numpy()).save(MASKS / f"{part}-{latent}.png")
