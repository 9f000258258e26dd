"""Pairs of the recipes, and what they preserve: ``python specs/skyline/make_pairs.py``.

A person finds such images in the gallery (``editspec sample``). Here the world is asked, which
knows what every image shows: the image that is copied from is to be like the target where the edit
does not change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.worlds.skyline.world import LATENT_SIZE, TOPS, Scene, scenes
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import SPECS

PAIRS = Path(__file__).with_name("pairs")
IMAGES, MANY = 2000, 20_000
"""The images that are looked at, and those among which towers are looked for."""
SIDES = {"left": 0, "right": 2}
"""The towers, and the site of the sun above each."""

SKIES = {"left_top": (8, 4, 22, 17), "right_top": (42, 4, 56, 17)}
"""Where nothing but sky is above battlements."""

ALIKE = {"sky": 1.0, "roof": 1.0, "{side}_height": 2.0, "wall": 0.3}
"""How much attributes count when towers are compared."""

AGAIN = 0.1
"""How much farther an image lies that was copied from before."""

Row = dict[str, Any]
Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge."""


def pair_tops(scene: Scene, old: str, new: str, count: int) -> Iterator[Row]:
    """Pair towers of the one top with those of the other in images that are alike.

    There are as many left as right ones, and no sun or text is in the way.
    """
    used = torch.zeros(len(scene))
    found = 0
    for target in range(len(scene)):
        for side, site in SIDES.items():
            if found == count or side != list(SIDES)[found % len(SIDES)]:
                continue
            top = getattr(scene, f"{side}_top")
            free = (scene.middle_watermark == 0) & (scene.sun_site != site)
            if not free[target] or top[target] != TOPS.index(old):
                continue
            far = used.clone()
            for attribute, weight in ALIKE.items():
                value = getattr(scene, attribute.format(side=side))
                far += weight * (value - value[target]).abs()
            source = int(torch.where(free & (top == TOPS.index(new)), far, torch.inf).argmin())
            used[source] += AGAIN
            found += 1
            yield copy(source, target, f"masks/{side}-tower.png")


def pair_nearest(far: Tensor, targets: list[int], mask: str) -> Iterator[Row]:
    """Pair each target with the nearest image of all, which no other is copied from.

    `far` [n, n] is how much images differ; infinite where one is not to be copied from.
    """
    for target in targets:
        source = int(far[target].argmin())
        far[:, source] = torch.inf
        yield copy(source, target, mask)


def pair_windows(scene: Scene, count: int) -> Iterator[Row]:
    """Pair dark windows with lit ones in walls of about the same colour."""
    lit, free = scene.windows_lit == 1, (scene.middle_watermark == 0) & (scene.people == 0)
    far = differ(scene, "wall", lit & free)
    yield from pair_nearest(far, find(~lit & free)[:count], "masks/windows.png")


def pair_people(scene: Scene, count: int) -> Iterator[Row]:
    """Pair images with people with empty ones, of about the same walls and ground."""
    free = scene.middle_watermark == 0
    far = differ(scene, "wall", free & (scene.people == 0)) + differ(scene, "ground", free)
    for number, side in enumerate(SIDES):
        there = free & (scene.people == 1) & (scene.people_site == number)
        yield from pair_nearest(far, find(there)[: count // 2], f"masks/people-{side}.png")


@dataclass(frozen=True)
class Side:
    """Where a tower and the tree before it stand, in pixels.

    Attributes
    ----------
    sun
        The site of the sun above the tower.
    tower
        The left and the right edge of what is pasted to.
    sky
        Those of the sky beside it, which is pasted side by side as often as it takes.
    crown, trunk
        Those of the crown and of the trunk's middle, which is a pixel wide.
    towards
        How far both go: once to either side of the tower's middle, which lies between pixels.
    """

    sun: int
    tower: tuple[int, int]
    sky: tuple[int, int]
    crown: tuple[int, int]
    trunk: tuple[int, int]
    towards: tuple[int, int]


TREES = {
    "left": Side(0, (8, 22), (1, 7), (0, 9), (4, 5), (10, 11)),
    "right": Side(2, (42, 56), (57, 63), (55, 64), (59, 60), (-10, -11)),
}
TOP, GROUND = 4, 51
"""The upper edge of what is pasted to, and where trees stand."""

CROWN, TRUNK = (32, 46), (44, 51)
"""The upper and the lower edges of crowns and trunks."""

NEAR = 0.15
"""How far a tower's edge may lie from a whole pixel, by which trees are moved."""


def pair_trees(scene: Scene, count: int) -> Iterator[Row]:
    """Pair spires with trees of the same season, which stand on the tower, before its own sky."""
    free = (scene.middle_watermark == 0) & (scene.bottom_watermark == 0)
    used = torch.zeros(len(SIDES), len(scene))
    found = 0
    for target in range(len(scene)):
        for number, (name, side) in enumerate(TREES.items()):
            if found == count or number != found % len(TREES):
                continue
            edge = float(27 - 3 * getattr(scene, f"{name}_height")[target])
            spire = getattr(scene, f"{name}_top")[target] == TOPS.index("spire")
            fits = free[target] & (scene.sun_site[target] != side.sun)
            if not spire or not fits or abs(edge - round(edge)) > NEAR:
                continue
            trees = free & (getattr(scene, f"{name}_tree") == 1)
            far = (scene.ground - scene.ground[target]).abs() + used[number]
            source = int(torch.where(trees, far, torch.inf).argmin())
            # One that was copied from is copied from again where no other is alike.
            used[number, source] += AGAIN
            found += 1
            yield plant(side, source, target, round(edge))


def plant(side: Side, source: int, target: int, edge: int) -> Row:
    """Make a pair that puts a tree onto a tower whose upper edge is at `edge`."""
    left, right = side.tower
    area = (left, TOP, right, edge)
    width = side.sky[1] - side.sky[0]
    copies = []
    for start in (*range(left, right - width, width), right - width):
        box = (side.sky[0], TOP, side.sky[1], edge)
        copies.append(move(target, {"box": box}, box, (start, TOP), area))
    for shape, (across, down) in (("box", (side.trunk, TRUNK)), ("ellipse", (side.crown, CROWN))):
        box = (across[0], down[0], across[1], down[1])
        for right_by in side.towards:
            to = (across[0] + right_by, down[0] + edge - GROUND)
            copies.append(move(source, {shape: box}, box, to, area))
    return {"source": copies, "target": {"latent": target, "mask": {"box": list(area)}}}


def move(latent: int, mask: Row, box: Box, to: tuple[int, int], area: Box) -> Row:
    """Make a copy of what a mask with a bounding box covers, whose upper left corner goes `to`."""
    # Without a shift the middle of the box comes to the middle of the area.
    shift = []
    for axis in (0, 1):
        size = box[axis + 2] - box[axis]
        shift.append(to[axis] - ((area[axis] + area[axis + 2]) // 2 - size // 2))
    shape = {name: list(edges) for name, edges in mask.items()}
    return {"latent": latent, "mask": shape, "shift": shift}


def differ(scene: Scene, attribute: str, fitting: Tensor) -> Tensor:
    """How much images differ in an attribute, [n, n]; infinite to those that do not fit."""
    value = getattr(scene, attribute)
    far = (value[:, None] - value[None]).abs()
    return torch.where(fitting[None], far, torch.inf)


def find(fitting: Tensor) -> list[int]:
    """The numbers of the images that fit."""
    return fitting.nonzero()[:, 0].tolist()


def copy(source: int, target: int, mask: str) -> Row:
    """Make a pair that copies what lies at the same place."""
    return {"source": {"latent": source}, "target": {"latent": target, "mask": mask}}


def write(name: str, rows: Iterable[Row]) -> None:
    """Write a file of rows."""
    lines = [json.dumps(row) + "\n" for row in rows]
    (PAIRS / f"{name}.jsonl").write_text("".join(lines))


def keep(fitting: Tensor, count: int, towers: int = 0) -> Iterator[Row]:
    """Preserve the first images that fit; what lies where towers are counts `towers` times."""
    for number in find(fitting)[:count]:
        yield {"latent": number}
        if towers:
            yield {"latent": number, "mask": "masks/towers.png", "weight": towers}


def keep_skies(scene: Scene, fitting: Tensor, count: int, weight: int) -> Iterator[Row]:
    """Preserve the sky above each battlement of these images, into which a spire would reach."""
    for number in find(fitting)[:count]:
        for name, box in SKIES.items():
            if getattr(scene, name)[number] == TOPS.index("battlements"):
                yield {"latent": number, "mask": {"box": list(box)}, "weight": weight}


def main() -> None:
    """Write all files."""
    PAIRS.mkdir(exist_ok=True)
    many = scenes(LatentStream(SPECS, LATENT_SIZE).items(range(MANY)))
    spires = pair_tops(many, "dome", "spire", 80)
    write("dome-to-spire", sorted(spires, key=lambda row: str(row["target"]["mask"])))
    scene = scenes(LatentStream(SPECS, LATENT_SIZE).items(range(IMAGES)))
    without = (scene.left_top != 0) & (scene.right_top != 0)
    stay = [*keep(without, 160, towers=10), *keep_skies(scene, without, 160, weight=80)]
    write("no-dome", stay)
    write("no-dome-plain", keep(without, 80, towers=4))
    write("dark-windows-to-lit", pair_windows(scene, 40))
    write("lit", keep(scene.windows_lit == 1, 40))
    write("people-gone", pair_people(scene, 40))
    write("nobody", keep(scene.people == 0, 40))
    write("spire-to-tree", pair_trees(scene, 80))
    spireless = (scene.left_top != 1) & (scene.right_top != 1)
    write("no-spire", keep(spireless, 160, towers=4))


if __name__ == "__main__":
    main()
