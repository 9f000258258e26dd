"""Draws the masks of the recipes: ``python specs/skyline/make_masks.py``. The world knows where
everything stands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editspec.worlds.skyline.world import (
    LATENT_SIZE,
    Scene,
    bottom_watermark,
    left_top,
    middle_watermark,
    part_mask,
    people,
    reflection,
    right_top,
    scenes,
    windows,
)
from editspec_runtime.modalities.image.latents import LatentStream

MASKS = Path(__file__).with_name("masks")

Part = Callable[..., None]


def stands(parts: tuple[Part, ...], scene: Scene) -> Tensor:
    """Where parts stand in any of n scenes: the rectangle around each, a pixel wider, [size, size]
    of truth values.
    """
    area = torch.zeros(64, 64, dtype=torch.bool)
    for part in parts:
        rows, columns = (part_mask(part, scene).amax(0) > 0.05).nonzero(as_tuple=True)
        area[
            max(0, rows.min() - 1) : rows.max() + 2, max(0, columns.min() - 1) : columns.max() + 2
        ] = True
    return area


def covered(parts: tuple[Part, ...], scene: Scene) -> Tensor:
    """What parts cover in any of n scenes, [size, size] of truth values."""
    return torch.stack([part_mask(part, scene).amax(0) > 0.05 for part in parts]).any(0)


def main() -> None:
    """Draw all masks."""
    MASKS.mkdir(exist_ok=True)
    scene = scenes(LatentStream(1, LATENT_SIZE).items(range(200)))
    right = scene.replace(people=1, people_site=1)
    marked = scene.replace(middle_watermark=1, bottom_watermark=1, reflection=1)
    masks = {
        "towers": stands((left_top, right_top), scene),
        "left-tower": stands((left_top,), scene),
        "right-tower": stands((right_top,), scene),
        "domes": covered((left_top, right_top), scene.replace(left_top="dome", right_top="dome")),
        "spires": covered(
            (left_top, right_top), scene.replace(left_top="spire", right_top="spire")
        ),
        "windows": stands((windows,), scene),
        "people-left": stands((people,), scene.replace(people=1, people_site=0)),
        "people-right": stands((people,), right),
        "middle-text": stands((middle_watermark,), marked),
        "bottom-text": stands((bottom_watermark,), marked),
        "reflection": stands((reflection,), marked),
    }
    for name, area in masks.items():
        Image.fromarray((area * 255).byte().numpy()).save(MASKS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
