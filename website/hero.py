"""The first picture of the README: ``python -m website.hero``.

Shows the first images of the stream of reports that have a dome, before and after the recipe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import editspec
from editspec.worlds.skyline.world import scenes
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import REPORTS

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "specs" / "skyline" / "dome_to_spire.yaml"
PICTURE = ROOT / "docs" / "domes-and-spires.png"

DOME = 0
"""The number of the dome among the tops of a tower."""

COUNT, TILE, GAP, MARGIN = 5, 200, 8, 84
LATENT_SIZE = 128


def main() -> None:
    """Build the recipe, and draw images before and after it."""
    numbers = [number for number, _ in zip(find_domes(), range(COUNT), strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        build = editspec.build(RECIPE, folder)
        model = editspec.open(RECIPE)
        edited = model.with_patches(*[edit.path for edit in build.edits])
        rows = {"before": model.images(numbers), "after": edited.images(numbers)}
    draw_rows(rows).save(PICTURE, optimize=True)


def find_domes() -> Iterator[int]:
    """Find the images that have a dome."""
    stream = LatentStream(REPORTS, LATENT_SIZE, "keyed")
    number = 0
    while True:
        scene = scenes(stream.items([number]))
        if DOME in (int(scene.left_top), int(scene.right_top)):
            yield number
        number += 1


def draw_rows(rows: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Draw rows of images, each with its label."""
    size = (MARGIN + COUNT * (TILE + GAP), len(rows) * (TILE + GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(20)
    for row, (label, images) in enumerate(rows.items()):
        top = row * (TILE + GAP)
        draw.text((MARGIN - 12, top + TILE // 2), label, fill="#222", font=font, anchor="rm")
        for column, image in enumerate(images):
            tile = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
            picture.paste(tile, (MARGIN + column * (TILE + GAP), top))
    return picture


if __name__ == "__main__":
    main()
