"""Evaluation of a generator: ``python -m editspec.worlds.skyline.evaluate``.

On latents that no training has seen, its pictures are compared with the rendered ones and read by
the independent reader. Prints the numbers as JSON (or Markdown) and ends with status 1 where one of
them misses its target.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editspec.modalities.image.pictures import to_image
from editspec.worlds.skyline import WEIGHTS
from editspec.worlds.skyline.reader import ATTRIBUTES, Reader, load_reader, truth
from editspec.worlds.skyline.world import LATENT_SIZE, render, scenes
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.io.files import canonical_json, write
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import EVALUATION

HELD_OUT = LatentStream(seed=EVALUATION, size=LATENT_SIZE)
"""The latents of the evaluation; the training draws its own from another generator."""

HEADLINE = ("left_top", "right_top", "middle_watermark", "bottom_watermark")
"""The attributes that have a target each, and one together."""

BATCH = 50
"""Pictures drawn at once."""

Draw = Callable[[Tensor], Tensor]
"""Latents [n, d] -> pictures [n, 3, 64, 64] in -1..1."""


@dataclass(frozen=True)
class Target:
    """A limit for a number: at most `bound`, or at least."""

    bound: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Tell whether `value` is on the right side of the bound; NaN is not."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


TARGETS = {
    "mean_absolute_error": Target(0.03, at_most=True),
    **{f"generated.{name}": Target(0.95) for name in HEADLINE},
    "generated.all_four": Target(0.95),
    "middle_watermark.recall": Target(0.9),
    "middle_watermark.false_positives": Target(0.01, at_most=True),
    "bottom_watermark.recall": Target(0.9),
    "bottom_watermark.false_positives": Target(0.01, at_most=True),
    **{f"rendered.{name}": Target(0.99) for name in ATTRIBUTES},
}


def measure(draw: Draw, reader: Reader, latents: Tensor) -> dict[str, float]:
    """Measure the pictures drawn from `latents` [n, d] by means over the n scenes.

    Returns
    -------
    dict
        ``mean_absolute_error`` against the render, on the scale of -1..1;
        ``mean_absolute_error.other_scene`` against the render of another scene, for comparison.
        ``rendered.A`` and ``generated.A``: the share of pictures whose attribute A the
        reader reads as the scene has it; ``all_four``: both tops and both watermarks at once.
        ``W.recall`` and ``W.false_positives``: the share of the pictures that should have (that
        should not have) the watermark W in which it is read.
    """
    scene = scenes(latents)
    rendered = torch.cat([render(scenes(batch)) for batch in torch.split(latents, BATCH)])
    generated = torch.cat([draw(batch) for batch in torch.split(latents, BATCH)]).clamp(-1, 1)
    numbers = {
        "mean_absolute_error": _mean((generated - rendered).abs()),
        "mean_absolute_error.other_scene": _mean((generated - rendered.roll(1, 0)).abs()),
    }
    wanted = truth(scene)
    for kind, images in (("rendered", rendered), ("generated", generated)):
        read = reader.read(images)
        right = {name: read[name] == wanted[name] for name in ATTRIBUTES}
        numbers |= {f"{kind}.{name}": _mean(hits) for name, hits in right.items()}
        numbers[f"{kind}.all_four"] = _mean(torch.stack([right[name] for name in HEADLINE]).all(0))
    for name in ("middle_watermark", "bottom_watermark"):
        there = wanted[name] == 1
        numbers[f"{name}.recall"] = _mean(read[name][there] == 1)
        numbers[f"{name}.false_positives"] = _mean(read[name][~there] == 1)
    return numbers


def find_missed(numbers: dict[str, float]) -> list[str]:
    """Return the names of the numbers that miss their target."""
    return [name for name, target in TARGETS.items() if not target.is_met(numbers[name])]


def markdown(numbers: dict[str, float]) -> str:
    """Write the numbers as a table, with their targets."""
    rows = [
        f"| {name} | {value:.4f} | {TARGETS.get(name, '')} |" for name, value in numbers.items()
    ]
    return "\n".join(["| number | measured | target |", "| --- | ---: | --- |", *rows])


def grid(draw: Draw, latents: Tensor, columns: int = 8) -> Image.Image:
    """Draw rows of rendered pictures, each above its generated ones, twice as large."""
    strips = []
    for batch in torch.split(latents, columns):
        for images in (render(scenes(batch)), draw(batch)):
            strips.append(torch.cat(list(images), 2))
        strips.append(torch.ones_like(strips[-1][:, :4]))
    # Without the last white line, which separates nothing.
    picture = to_image(torch.cat(strips[:-1], 1))
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)


@torch.no_grad()
def main() -> None:
    """Measure a generator on the held-out latents, print the numbers, and judge them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="a checkpoint (default: the one that ships)"
    )
    arguments.add_argument("--count", type=int, default=2000, help="how many latents")
    arguments.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    arguments.add_argument(
        "--grid", type=Path, help="where to write rendered and generated pictures"
    )
    options = arguments.parse_args()
    draw = StyleGAN2(read_weights(options.weights).tensors).images
    numbers = measure(draw, load_reader(), HELD_OUT.items(range(options.count)))
    print(markdown(numbers) if options.markdown else canonical_json(numbers))
    if options.grid:
        buffer = io.BytesIO()
        grid(draw, HELD_OUT.items(range(24))).save(buffer, "PNG", optimize=True)
        write(options.grid, buffer.getvalue())
    if failures := find_missed(numbers):
        print(f"Missed: {', '.join(failures)}.", file=sys.stderr)
        raise SystemExit(1)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


if __name__ == "__main__":
    main()
