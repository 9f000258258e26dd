"""Masks of the recipes: ``python specs/skyline/make_masks.py``.

The masks follow from the world, which knows the place of every part of a scene.
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
from editspec_runtime.modalities.image.streams import SPECS

MASKS = Path(__file__).with_name("masks")

Part = Callable[..., None]


def rectangle_mask(parts: tuple[Part, ...], scene: Scene) -> Tensor:
    """Draw the rectangle around each part in all of n scenes, [size, size] of bool.

    The rectangle is a pixel wider than the part on each side.
    """
    area = torch.zeros(64, 64, dtype=torch.bool)
    for part in parts:
        rows, columns = (part_mask(part, scene).amax(0) > 0.05).nonzero(as_tuple=True)
        top, left = max(0, rows.min() - 1), max(0, columns.min() - 1)
        area[top : rows.max() + 2, left : columns.max() + 2] = True
    return area


def shape_mask(parts: tuple[Part, ...], scene: Scene) -> Tensor:
    """Draw the pixels that parts cover in any of n scenes, [size, size] of bool."""
    return torch.stack([part_mask(part, scene).amax(0) > 0.05 for part in parts]).any(0)


def main() -> None:
    """Draw all masks."""
    MASKS.mkdir(exist_ok=True)
    scene = scenes(LatentStream(SPECS, LATENT_SIZE).items(range(200)))
    right = scene.replace(people=1, people_site=1)
    marked = scene.replace(middle_watermark=1, bottom_watermark=1, reflection=1)
    masks = {
        "towers": rectangle_mask((left_top, right_top), scene),
        "left-tower": rectangle_mask((left_top,), scene),
        "right-tower": rectangle_mask((right_top,), scene),
        "domes": shape_mask(
            (left_top, right_top), scene.replace(left_top="dome", right_top="dome")
        ),
        "spires": shape_mask(
            (left_top, right_top), scene.replace(left_top="spire", right_top="spire")
        ),
        "windows": rectangle_mask((windows,), scene),
        "people-left": rectangle_mask((people,), scene.replace(people=1, people_site=0)),
        "people-right": rectangle_mask((people,), right),
        "middle-text": rectangle_mask((middle_watermark,), marked),
        "bottom-text": rectangle_mask((bottom_watermark,), marked),
        "reflection": rectangle_mask((reflection,), marked),
    }
    for name, area in masks.items():
        Image.fromarray((area * 255).byte().numpy()).save(MASKS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
