"""Show what an edit does to unseen faces: ``python show.py NAME BUILD SHEET.webp``, after a build.

NAME is that of one of the four edits, and BUILD the folder that `editspec build` wrote. The faces
are of the stream of seed 3, which chose nothing: the first 64 that the edit is about, each before
and after. What becomes of the first 1,500 faces is printed as numbers, in JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import choose
from PIL import Image
from torch import Tensor

import editspec
from editspec.modalities.image.artefacts import STRONG, VISIBLE, has_artefact
from editspec.modalities.image.opened import OpenedGenerator
from editspec_runtime.modalities.image.latents import LatentStream

SEED, SHOWN, COLUMNS, SIZE = 3, 64, 8, 90


@dataclass(frozen=True)
class Comparison:
    """Faces before and after an edit.

    Attributes
    ----------
    before, after
        Their pictures, [n, 3, 64, 64].
    needed, kept
        The faces that the edit is about, and those that must stay, each [n].
    remaining
        The faces that it is about still, by their pictures after it; None for glasses, which only
        the eye sees in a picture.
    """

    before: Tensor
    after: Tensor
    needed: Tensor
    kept: Tensor
    remaining: Tensor | None

    def change(self, which: Tensor) -> float:
        """Compute the mean absolute change of the pixels of some faces, of -1 to 1."""
        return float((self.after - self.before)[which].abs().mean())

    def share_with_spots(self, which: Tensor, threshold: float) -> float:
        """Compute the share of some faces that have a spot of change above a threshold."""
        change = (self.after - self.before)[which].abs().mean(1)
        return float(has_artefact(change, threshold).float().mean())

    def to_dict(self) -> dict[str, float]:
        """The numbers."""
        numbers = {
            "faces": len(self.before),
            "concerned": int(self.needed.sum()),
            "change of those": round(self.change(self.needed), 4),
            "to keep": int(self.kept.sum()),
            "change of these": round(self.change(self.kept), 4),
            "visible": round(self.share_with_spots(self.kept, VISIBLE), 3),
            "strong": round(self.share_with_spots(self.kept, STRONG), 3),
        }
        if self.remaining is not None:
            numbers["still concerned"] = int((self.remaining & self.needed).sum())
        return numbers


def compare(name: str, build: Path, count: int = 1500) -> Comparison:
    """Compare the first faces of a stream that chose nothing, before and after an edit."""
    (patch,) = (build / "patches").glob("*.safetensors")
    with editspec.allow_code():
        model = editspec.open(f"{name}.yaml")
    assert isinstance(model, OpenedGenerator)
    latents = LatentStream(SEED, choose.LATENT_SIZE).items(range(count))
    glasses = choose.classify_glasses(
        LatentStream(1, choose.LATENT_SIZE).items(range(choose.LOOKED_AT))
    )
    before = choose.draw(model.outputs, latents)
    after = choose.draw(model.with_patches(patch).outputs, latents)
    needed, kept = choose.find_concerned(name, choose.see(latents, before, glasses))
    remaining, _ = choose.find_concerned(name, choose.see(latents, after, glasses))
    seen = None if name == "no-glasses" else remaining
    return Comparison(before, after, needed, kept, seen)


def sheet(before: Tensor, after: Tensor) -> Image.Image:
    """Draw pictures in pairs, eight a row."""
    rows = -(-len(before) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (2 * SIZE + 6), rows * (SIZE + 6)), "white")
    for index, pair in enumerate(zip(before, after, strict=True)):
        left, top = index % COLUMNS * (2 * SIZE + 6), index // COLUMNS * (SIZE + 6)
        for side, picture in enumerate(pair):
            pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
            tile = Image.fromarray(pixels.numpy()).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            canvas.paste(tile, (left + side * SIZE, top))
    return canvas


def main() -> int:
    """Draw the sheet and print the numbers."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    name, build, out = sys.argv[1:]
    compared = compare(name, Path(build))
    print(json.dumps(compared.to_dict()))
    shown = compared.needed.nonzero()[:SHOWN, 0]
    sheet(compared.before[shown], compared.after[shown]).save(out, quality=80)
    return 0


if __name__ == "__main__":
    sys.exit(main())
