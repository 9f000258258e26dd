"""Places at which examples of a rule are looked for: one position in many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import (
    Copied,
    CopiedFromNearest,
    Copy,
    ImagePair,
    Latent,
    Place,
    Source,
)
from editspec_compiler.problems import SpecPath
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box

ENDS = 6
"""A place that is cut down keeps this part of its size around what is seen to differ in it."""


@dataclass(frozen=True)
class Slot:
    """A place that lies at one position in many images.

    Attributes
    ----------
    mask
        As the language has it.
    box
        Where it lies, in pixels.
    """

    mask: Any
    box: Box

    @property
    def area(self) -> int:
        """The pixels in the box."""
        return (self.box.bottom - self.box.top) * (self.box.right - self.box.left)


def find_slots(
    resolver: Resolver, places: Sequence[tuple[Place, SpecPath]], coarsest: int
) -> list[Slot]:
    """Find the target's place, and the same moved to other places of an edit.

    All have the target's size at every layer, as the pairs of an edit must.

    Parameters
    ----------
    resolver
        The edit on its model.
    places
        The target first; each with its path below the edit.
    coarsest
        The smallest width of a key map at which the slots are used: they move by its positions.
    """
    size = resolver.generator.architecture.image_size
    boxes = []
    for place, path in places:
        boxes.append(resolver.enclose(resolver.area(place.mask, size, *path, "mask")))
    own = boxes[0]
    slots = {(own.top, own.left): Slot(plain_part(places[0][0])["mask"], own)}
    for box in boxes[1:]:
        moved = move_box(own, box, size // coarsest, size)
        slots.setdefault((moved.top, moved.left), Slot({"box": edges_of(moved)}, moved))
    return list(slots.values())


def halve_slots(slots: Sequence[Slot], stride: int) -> list[Slot]:
    """Cut each slot in two along its longer side, at a multiple of `stride` pixels.

    Empty where they are too small for that.
    """
    halves = []
    for slot in slots:
        for box in halve_box(slot.box, stride):
            halves.append(Slot({"box": edges_of(box)}, box))
    return halves


def halve_box(box: Box, stride: int) -> list[Box]:
    """Cut a box into two of one size along its longer side; of an odd size a middle stays out."""
    height, width = box.bottom - box.top, box.right - box.left
    size = max(height, width) // 2 // stride * stride
    if not size:
        return []
    if width >= height:
        left, right = replace(box, right=box.left + size), replace(box, left=box.right - size)
        return [left, right]
    return [replace(box, bottom=box.top + size), replace(box, top=box.bottom - size)]


def halve_pair(resolver: Resolver, pair: ImagePair, path: SpecPath, stride: int) -> list[Any]:
    """Cut a pair in two as `halve_slots` cuts places: entries of ``pairs``.

    Empty where its source is no single copy of the target's size.
    """
    size = resolver.generator.architecture.image_size
    source, target = pair.source, pair.target
    if not isinstance(source, Copied) or isinstance(source.latent, list):
        return []
    below = (*path, "target", "mask")
    to = resolver.enclose(resolver.area(target.mask, size, *below))
    given = source.mask or target.mask
    copied = resolver.enclose(resolver.area(given, size, *path, "source", "mask"))
    if copied.bottom - copied.top != to.bottom - to.top:
        return []
    if copied.right - copied.left != to.right - to.left:
        return []
    entries = []
    for here, there in zip(halve_box(copied, stride), halve_box(to, stride), strict=True):
        one = plain_part(source) | {"mask": {"box": edges_of(here)}}
        other = plain_part(target) | {"mask": {"box": edges_of(there)}}
        entries.append({"source": one, "target": other})
    return entries


def tighten_slots(slots: Sequence[Slot], differing: Sequence[Tensor], size: int) -> list[Slot]:
    """Cut slots down to what lies in them of some areas, all to one size.

    Parameters
    ----------
    differing
        For each slot an area of the picture, [h, w] of truth values at any resolution.
    size
        The width of a picture in pixels.

    Returns
    -------
    list[Slot]
        Empty where nothing of an area lies in its slot.
    """
    boxes = []
    for slot, area in zip(slots, differing, strict=True):
        zoom = size // len(area)
        rows, columns = torch.nonzero(area, as_tuple=True)
        inside = (rows * zoom >= slot.box.top) & (rows * zoom < slot.box.bottom)
        inside &= (columns * zoom >= slot.box.left) & (columns * zoom < slot.box.right)
        if not bool(inside.any()):
            return []
        rows, columns = zoom * rows[inside], zoom * columns[inside]
        # Thin ends, such as the tip of a spire, differ too little to be seen in the mean.
        margin = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) // ENDS
        top, left = int(rows.min()) - margin, int(columns.min()) - margin
        bottom, right = int(rows.max()) + zoom + margin, int(columns.max()) + zoom + margin
        whole = slot.box
        boxes.append(
            Box(
                max(top, whole.top),
                max(left, whole.left),
                min(bottom, whole.bottom),
                min(right, whole.right),
            )
        )
    height = max(box.bottom - box.top for box in boxes)
    width = max(box.right - box.left for box in boxes)
    tight = []
    for box, slot in zip(boxes, slots, strict=True):
        top = min(box.top, slot.box.bottom - height)
        left = min(box.left, slot.box.right - width)
        moved = Box(top, left, top + height, left + width)
        tight.append(Slot({"box": edges_of(moved)}, moved))
    return tight


def move_pair(pair: Mapping[str, Any], old: Box, new: Box) -> list[Any]:
    """Move a pair of a target in the box `old` as that is moved to `new`; entries of ``pairs``.

    Empty where its source is no single copy from a box of the target's size.
    """
    source, target = pair["source"], pair["target"]
    if not isinstance(source, dict) or "nearest" in source:
        return []
    mask = source.get("mask") or target["mask"]
    if not isinstance(mask, dict) or "box" not in mask:
        return []
    copied = mask["box"]
    left, top = copied[0] + new.left - old.left, copied[1] + new.top - old.top
    box = Box(top, left, top + new.bottom - new.top, left + new.right - new.left)
    return [
        {
            "source": source | {"mask": {"box": edges_of(box)}},
            "target": target | {"mask": {"box": edges_of(new)}},
        }
    ]


def edges_of(box: Box) -> list[int]:
    """Return the edges of a box in the order of the language."""
    return [box.left, box.top, box.right, box.bottom]


def slot_areas(slots: Sequence[Slot], generator: Generator, layer: str) -> Tensor:
    """Compute how much of each position of a key map slots cover, [slots, size, size]."""
    size = generator.architecture.image_size
    areas = torch.zeros(len(slots), 1, size, size, dtype=torch.float64)
    for area, slot in zip(areas, slots, strict=True):
        area[0, slot.box.rows(), slot.box.columns()] = 1
    return F.adaptive_avg_pool2d(areas, generator.layer(layer).key_size)[:, 0]


def plain_part(part: BaseModel) -> dict[str, Any]:
    """Return a part of the language as it may stand in a spec."""
    return part.model_dump(by_alias=True, exclude_unset=True, mode="json")


def plain_pair(pair: ImagePair) -> dict[str, Any]:
    """Return a pair as it may stand in a spec."""
    return {"source": plain_source(pair.source), "target": plain_part(pair.target)}


def plain_source(source: Source) -> Any:
    """Return a source, or several copies into one target, as it may stand in a spec."""
    if isinstance(source, list):
        return [plain_part(each) for each in source]
    return plain_part(source)


def abbreviate_places(places: Sequence[Any]) -> list[Any]:
    """Write places as a person would: images of one mask as one entry, whole images last."""
    by_rest: dict[str, tuple[dict[str, Any], list[int]]] = {}
    found = list[Any]()
    for entry in places:
        if not isinstance(entry["latent"], int) or entry.keys() - {"latent", "mask"}:
            found.append(entry)
            continue
        rest = {name: entry[name] for name in entry if name != "latent"}
        by_rest.setdefault(repr(rest), (rest, []))[1].append(entry["latent"])
    for rest, latents in by_rest.values():
        named = {"latent": latents[0]} if len(latents) == 1 else {"latents": latents}
        found.append({**named, **rest})
    return sorted(found, key=lambda entry: "mask" not in entry)


def latents_of(copied: Copy) -> list[Latent]:
    """List the images that a copy may be from."""
    if isinstance(copied, CopiedFromNearest):
        return list(copied.nearest.latents)
    return [copied.latent]


def move_box(box: Box, to: Box, stride: int, size: int) -> Box:
    """Move a box to the middle of another by whole strides, and no further than the edges."""
    down = _shift((box.top, box.bottom), (to.top, to.bottom), stride, size)
    right = _shift((box.left, box.right), (to.left, to.right), stride, size)
    return Box(box.top + down, box.left + right, box.bottom + down, box.right + right)


def _shift(edges: tuple[int, int], wanted: tuple[int, int], stride: int, size: int) -> int:
    steps = round((sum(wanted) - sum(edges)) / 2 / stride)
    least, most = -(edges[0] // stride), (size - edges[1]) // stride
    return stride * min(max(steps, least), most)
