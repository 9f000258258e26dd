"""Choose the images of the four edits: ``python choose.py [FOLDER]``, after ``fetch.py``.

Writes into FOLDER, by default the folder of this file, what the specs name: for each edit its
pairs, what it preserves, and the latents of its sources. The numbers are of the stream of seed 1,
of which 4,000 faces are looked at.

What is seen of a face is told by the brightness of a few regions, and for glasses by eye. A linear
regression on the latents then gives a direction in which that changes and the rest does not; a
latent that is moved along it draws the same face with dark hair, without glasses, or before a
bright background.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from editspec_runtime.modalities.image.latents import LatentStream

HERE = Path(__file__).parent
SEEN = 4000
LATENT_SIZE = 100
MOST_PAIRS = {"no-borders": 400, "dark-hair": 400, "no-glasses": 96, "bright-background": 96}
"""The most faces that an edit changes."""

MOST_KEPT = {"no-borders": 1200, "dark-hair": 400, "no-glasses": 96, "bright-background": 96}
"""The most that it preserves."""

MOST_CANDIDATES = 600
"""The faces among which that without a bar is chosen that is most alike."""

EDGE = 3
"""The pixels at the left, at the right and on top that must not be black in a face to preserve."""

GLASSES = """
2 22 32 38 40 60 62 81 90 92 98 114 115 123 127 128 129 132 134 137 152 158 172 176 182 183 191 197
200 204 217 222 234 238 241 242 243 248 261 268 272 282 286 290 297 309 318 329 356 359 362 363 364
372 413 423 425 429 462 467 476 489 492 493 497 507 516 521 527 530 534 539 547 548 550 565 571 575
576 579 590 596 601 618 619 621
"""
"""The faces of the first 640 that wear glasses, by eye on ``editspec sample``."""

UNCLEAR = "8 20 138 163 223 276 293 316 385 397 399 424 437 464 471 488 498 522 529"
"""Those of which the eye cannot say it."""

LOOKED_AT = 640


def draw(generate: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """Draw latents [n, 100] as pictures [n, 3, 64, 64] in -1..1, a few at a time."""
    with torch.no_grad():
        return torch.cat([generate(batch) for batch in torch.split(latents, 100)])


def find_black(pictures: Tensor) -> Tensor:
    """Find the black pixels of pictures, [n, 64, 64]."""
    return pictures.amax(1) < -0.95


def border_widths(pictures: Tensor) -> Tensor:
    """Measure the black bars at the left, at the right and on top, in pixels: [n, 3].

    A row or column belongs to a bar if half of it is black, and so is all between it and the edge.
    """
    black = find_black(pictures).float()
    columns, rows = black.mean(1) > 0.5, black.mean(2) > 0.5
    lines = torch.stack([columns, columns.flip(1), rows], 1)
    return lines.long().cumprod(2).sum(2)


def have_black_edges(pictures: Tensor) -> Tensor:
    """Tell which pictures are black anywhere at the left, at the right or on top, [n].

    So are those with a bar that is narrow, slanted, or of one corner alone.
    """
    black = find_black(pictures)
    edges = [black[:, :, :EDGE], black[:, :, -EDGE:], black[:, :EDGE]]
    return torch.stack([edge.flatten(1).any(1) for edge in edges]).any(0)


def brightness(pictures: Tensor) -> dict[str, Tensor]:
    """Measure the mean brightness of regions, -1 to 1, each [n]."""
    gray = pictures.mean(1)
    sides = torch.cat([gray[:, :30, :5], gray[:, :30, -5:]], 2)
    return {
        "hair": gray[:, 4:12, 22:42].mean((1, 2)),
        "face": gray[:, 26:48, 24:42].mean((1, 2)),
        "background": sides.mean((1, 2)),
        "clothes": gray[:, 58:, 10:54].mean((1, 2)),
    }


@dataclass(frozen=True)
class Slope:
    """A linear model of a measure: its value is `slope @ latent + offset`.

    Attributes
    ----------
    slope
        How the measure changes with the latent, [100].
    offset
        The measure of the latent 0.
    """

    slope: Tensor
    offset: float

    def of(self, latents: Tensor) -> Tensor:
        """Predict the measure of latents [n, 100]."""
        predicted: Tensor = latents @ self.slope + self.offset
        return predicted

    def apart_from(self, others: list[Slope]) -> Tensor:
        """The direction of length 1 in which this rises and others stay, [100]."""
        basis, _ = torch.linalg.qr(torch.stack([other.slope for other in others], 1))
        rest = self.slope - basis @ (basis.T @ self.slope)
        direction: Tensor = rest / rest.norm()
        return direction


def regress(latents: Tensor, measured: Tensor) -> Slope:
    """Fit a measure [n] by least squares."""
    ones = torch.ones(len(latents), 1)
    solution = torch.linalg.lstsq(torch.cat([latents, ones], 1), measured[:, None]).solution[:, 0]
    return Slope(solution[:-1], float(solution[-1]))


def classify_glasses(latents: Tensor) -> Slope:
    """Fit the log odds of glasses to what the eye saw, by logistic regression."""
    worn = torch.zeros(LOOKED_AT)
    worn[[int(number) for number in GLASSES.split()]] = 1
    clear = torch.ones(LOOKED_AT, dtype=torch.bool)
    clear[[int(number) for number in UNCLEAR.split()]] = False
    latents, worn = latents[:LOOKED_AT][clear], worn[clear]
    slope = torch.zeros(LATENT_SIZE, requires_grad=True)
    offset = torch.zeros(1, requires_grad=True)
    steps = torch.optim.LBFGS([slope, offset], max_iter=200)

    def objective() -> Tensor:
        steps.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(latents @ slope + offset, worn)
        loss = loss + 0.005 * slope.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    steps.step(objective)  # type: ignore[no-untyped-call]
    return Slope(slope.detach(), float(offset.detach()))


@dataclass(frozen=True)
class Faces:
    """Faces, and what is seen of them.

    Attributes
    ----------
    latents
        Their latents, [n, 100].
    bars
        As `border_widths` gives them, [n, 3].
    black_edges
        As `have_black_edges` tells it, [n].
    regions
        As `brightness` gives them.
    odds
        The log odds that they wear glasses, by their latents, [n].
    """

    latents: Tensor
    bars: Tensor
    black_edges: Tensor
    regions: dict[str, Tensor]
    odds: Tensor

    @property
    def plain(self) -> Tensor:
        """Which faces are neither in the dark nor behind a bar."""
        return (self.regions["face"] > -0.6) & (self.bars.amax(1) == 0)


def see(latents: Tensor, pictures: Tensor, glasses: Slope) -> Faces:
    """Measure pictures and their latents."""
    bars, black_edges = border_widths(pictures), have_black_edges(pictures)
    return Faces(latents, bars, black_edges, brightness(pictures), glasses.of(latents))


def find_concerned(name: str, faces: Faces) -> tuple[Tensor, Tensor]:
    """Find the faces that an edit is about, and those that must stay, each [n]."""
    hair, background = faces.regions["hair"], faces.regions["background"]
    lit, bar = faces.regions["face"] > -0.5, faces.bars.amax(1)
    found = {
        "no-borders": (lit & (bar > 2), lit & ~faces.black_edges),
        "dark-hair": (faces.plain & (hair > -0.5), faces.plain & (hair < -0.7)),
        "no-glasses": (faces.plain & (faces.odds > -0.5), faces.plain & (faces.odds < -3)),
        "bright-background": (faces.plain & (background < 0.5), faces.plain & (background > 0.55)),
    }
    return found[name]


def numbers_of(which: Tensor, most: int) -> list[int]:
    """The numbers of the first faces of which something holds."""
    numbers: list[int] = which.nonzero()[:most, 0].tolist()
    return numbers


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as JSON, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass(frozen=True)
class Move:
    """An edit whose sources are the targets' own faces, with moved latents.

    Attributes
    ----------
    name
        The name of its files.
    direction, steps
        Where latents move, [100], and how far each does, [n].
    mask
        Where the targets change.
    """

    name: str
    direction: Tensor
    steps: Tensor
    mask: dict[str, object]

    def write(self, folder: Path, faces: Faces) -> None:
        """Write its pairs, what is kept, and the latents of its sources."""
        needed, kept = find_concerned(self.name, faces)
        targets = numbers_of(needed, MOST_PAIRS[self.name])
        moved = faces.latents[targets] + self.steps[targets, None] * self.direction
        np.save(folder / f"{self.name}.npy", moved.numpy().astype(np.float16))
        rows: list[dict[str, object]] = []
        for index, target in enumerate(targets):
            source = {"latent": {"file": f"{self.name}.npy", "index": index}}
            rows.append({"source": source, "target": {"latent": target, "mask": self.mask}})
        write_rows(folder / f"{self.name}.pairs.jsonl", rows)
        stay: dict[str, object] = {"latents": numbers_of(kept, MOST_KEPT[self.name])}
        write_rows(folder / f"{self.name}.kept.jsonl", [stay])


def find_moves(faces: Faces, glasses: Slope) -> list[Move]:
    """Find the moves of latents of three edits."""
    slopes = {name: regress(faces.latents, seen) for name, seen in faces.regions.items()}
    slopes["glasses"] = glasses
    others = {name: [slopes[each] for each in slopes if each != name] for name in slopes}
    direction = {name: slopes[name].apart_from(others[name]) for name in slopes}
    rise = {name: float(slopes[name].slope @ direction[name]) for name in slopes}
    # The values that are aimed at, and the longest moves that draw a face still.
    hair = ((-0.75 - faces.regions["hair"]) / rise["hair"]).clamp(-4, 0)
    seen = ((-5.5 - faces.odds) / rise["glasses"]).clamp(-3.5, -1)
    light = ((0.8 - faces.regions["background"]) / rise["background"]).clamp(0, 5)
    whole: dict[str, object] = {"box": [0, 0, 64, 64]}
    eyes: dict[str, object] = {"box": [4, 16, 60, 42]}
    return [
        Move("dark-hair", direction["hair"], hair, whole),
        Move("no-glasses", direction["glasses"], seen, eyes),
        Move("bright-background", direction["background"], light, whole),
    ]


def mask_of(bars: list[int]) -> dict[str, object]:
    """The mask of bars at the left, at the right and on top, of some widths."""
    left, right, top = bars
    boxes = [[0, 0, left, 64], [64 - right, 0, 64, 64], [0, 0, 64, top]]
    masks: list[dict[str, object]] = []
    for box, width in zip(boxes, bars, strict=True):
        if width:
            masks.append({"box": box})
    return masks[0] if len(masks) == 1 else {"union": masks}


def write_borders(folder: Path, faces: Faces) -> None:
    """Write the pairs of bordered faces, those with bars of one width together.

    Their sources are the nearest of the faces without a bar.
    """
    name = "no-borders"
    needed, kept = find_concerned(name, faces)
    clean = numbers_of(kept, MOST_KEPT[name])
    # A little wider than the bars are, in steps of four pixels.
    widths = torch.where(faces.bars > 1, (faces.bars + 5) // 4 * 4, 0)
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in numbers_of(needed, MOST_PAIRS[name]):
        groups.setdefault(tuple(widths[number].tolist()), []).append(number)
    rows: list[dict[str, object]] = []
    for bars, numbers in sorted(groups.items()):
        target = {"latents": numbers, "mask": mask_of(list(bars))}
        rows.append({"source": {"nearest": {"latents": clean[:MOST_CANDIDATES]}}, "target": target})
    write_rows(folder / f"{name}.pairs.jsonl", rows)
    write_rows(folder / f"{name}.kept.jsonl", [{"latents": clean}])


def load_generator(folder: Path) -> Callable[[Tensor], Tensor]:
    """Load the generator that fetch.py put into a folder, of latents [n, 100]."""
    sys.path.insert(0, str(folder))
    models = importlib.import_module("gan_face_generate.models")
    saved = torch.load(folder / "gan_face_generate" / "weights.tar", "cpu", weights_only=True)
    network = models.Generator(0, 3, LATENT_SIZE, 64)
    network.load_state_dict(saved["netG_state_dict"])
    network.eval()

    def generate(latents: Tensor) -> Tensor:
        pictures: Tensor = network(latents[:, :, None, None])
        return pictures

    return generate


def main() -> int:
    """Choose and write."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    latents = LatentStream(1, LATENT_SIZE).items(range(SEEN))
    glasses = classify_glasses(latents)
    faces = see(latents, draw(load_generator(folder), latents), glasses)
    for move in find_moves(faces, glasses):
        move.write(folder, faces)
    write_borders(folder, faces)
    return 0


if __name__ == "__main__":
    sys.exit(main())
