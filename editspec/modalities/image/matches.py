"""Images of a stream that show what the context or the source of a tuned edit shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from editspec.modalities.image.likeness import (
    Scan,
    Split,
    scan,
    split_in_two,
    spread,
    tell_apart,
)
from editspec.modalities.image.slots import (
    Slot,
    edges_of,
    find_slots,
    halve_pair,
    halve_slots,
    move_pair,
    plain_pair,
    plain_part,
    slot_areas,
    tighten_slots,
)
from editspec.modalities.image.tuned_edit import PlaceAt, TunedEdit
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.schema import Place
from editspec_runtime.core.progress import StepCallback
from editspec_runtime.errors import NumericalError

CLEAR = 0.85
"""The share of the variance between both groups below which the places are tried in halves."""

TIGHT = 0.7
"""The share of a place below which what both kinds of images differ in takes its stead."""

TELLING = 8
"""Images of each kind and place that say where both differ, at the least, and what they show."""


@dataclass(frozen=True)
class Found:
    """What a scan finds: for each slot the images that match, and those that match nowhere.

    Attributes
    ----------
    matching
        For each slot, images that show there what the context shows.
    showing
        For each slot, images that show there what the source shows.
    others
        Images that match in no slot.
    """

    matching: list[list[int]]
    showing: list[list[int]]
    others: list[int]


class Matches:
    """Images in which an edit's context matches, and those that show its source.

    Parameters
    ----------
    tuned, layers
        The edit, and the layers to try. Others may tell images better.
    numbers, latents
        Images of the spec's stream, and their latents, [n, latent_size].
    pictures
        They as they are looked at, [n, 3, size, size]; computed when they are asked for.
    progress
        Makes the callback of a scan from what is scanned.

    Attributes
    ----------
    slots, given_pairs, given_source
        The places, the given pairs at these, and the source of the first of them.
    context
        Places of the context, where those that were given did not fit the slots; else None.
    layer, scan, clearness
        The layer that tells images best, its keys, and how clearly it does.
    found
        The images.
    """

    def __init__(
        self,
        tuned: TunedEdit,
        layers: Sequence[str],
        numbers: Sequence[int],
        latents: Tensor,
        pictures: Callable[[], Tensor],
        progress: Callable[[str], StepCallback],
    ) -> None:
        self.tuned, self.numbers = tuned, numbers
        self.layers = tuned.telling_layers(layers)
        self.latents, self.pictures, self.progress = latents, pictures, progress
        self.places, self.sources = tuned.places(), tuned.sources()
        self.context: list[Any] | None = None
        architecture = tuned.generator.architecture
        coarsest = min(architecture.layers[name].key_size for name in layers)
        stride = architecture.image_size // coarsest
        self.slots = find_slots(tuned.resolver(self.layers[0]), self.places, coarsest)
        self.given_pairs = [plain_pair(pair) for pair in tuned.edit.sides]
        self.layer, self.scan, self.clearness = self._find_telling_layer(self.slots)
        if self.clearness < CLEAR:
            self._halve_places(stride)
        self.given_source = self.given_pairs[0]["source"]
        self.found = self._find()
        self._tighten_places()

    def context_keys(self) -> tuple[Tensor, Tensor]:
        """The keys of the context at the telling layer, and how much each counts."""
        return self.tuned.select(self.layer, self.places)

    @cached_property
    def splits(self) -> list[Split]:
        """What tells the images that match from those that do not, for each slot."""
        responses = self.scan.respond(*self.context_keys())
        return [split_in_two(each) for each in responses.T]

    def _find(self) -> Found:
        """Find images for examples and images that match nowhere."""
        context = self.scan.respond(*self.context_keys())
        source = self.scan.respond(*self.tuned.select(self.layer, self.sources))
        above = torch.stack(
            [context[:, slot] > split.threshold for slot, split in enumerate(self.splits)], 1
        )
        showing = torch.stack([each > split_in_two(each).threshold for each in source.T], 1)
        # What shows the source has nothing to be changed, whatever else it shows.
        matching = above & ~showing
        showing = showing & ~above
        return Found(
            [torch.nonzero(each)[:, 0].tolist() for each in matching.T],
            [torch.nonzero(each)[:, 0].tolist() for each in showing.T],
            torch.nonzero(~above.any(1))[:, 0].tolist(),
        )

    def _halve_places(self, stride: int) -> None:
        """Cut the places in two where images fall more clearly into two groups by halves.

        A place that holds two things is told from others by neither.
        """
        slots = halve_slots(self.slots, stride)
        pairs: list[Any] = []
        for pair, path in self.tuned.resolver(self.layers[0]).sides():
            halves = halve_pair(self.tuned.resolver(self.layers[0]), pair, path, stride)
            if not halves:
                return
            pairs += halves
        layer, found, clearness = self._find_telling_layer(slots)
        if clearness > self.clearness:
            self.slots, self.given_pairs = slots, pairs
            self.layer, self.scan, self.clearness = layer, found, clearness

    def _find_telling_layer(self, slots: Sequence[Slot]) -> tuple[str, Scan, float]:
        """The layer at which the context's key splits images most clearly into two groups."""
        best: tuple[float, str, Scan] | None = None
        areas = {name: slot_areas(slots, self.tuned.generator, name) for name in self.layers}
        scans = scan(self.tuned.generator, areas, self.latents, self.progress("images"))
        for name, found in scans.items():
            try:
                responses = found.respond(*self.tuned.select(name, self.places))
            except (SpecError, NumericalError):
                # A mask vanishes at the layer, or no image has such a key.
                continue
            clearness = min(split_in_two(each).clearness for each in responses.T)
            if best is None or clearness > best[0]:
                best = clearness, name, found
        if best is None:
            raise self.tuned.error(
                ("context",),
                "no layer tells this context from other images",
                "give larger masks, or more images by --images",
            )
        return best[1], best[2], best[0]

    def _tighten_places(self) -> None:
        """Take the part of each place in which both kinds of images differ, where that is small.

        Whatever else lies in a place, such as a sun between two towers, is then left as it is. The
        images that were found take the stead of the given context, which shows all of the place.
        """
        groups = list(zip(self.found.matching, self.found.showing, strict=True))
        if min(len(each) for group in groups for each in group) < TELLING:
            return
        pictures = self.pictures()
        differing = [tell_apart(pictures[ones], pictures[others]) for ones, others in groups]
        size = self.tuned.generator.architecture.image_size
        slots = tighten_slots(self.slots, differing, size)
        if not slots or slots[0].area > TIGHT * self.slots[0].area:
            return
        self.given_pairs = self._move_pairs(slots)
        self.slots = slots
        self.places = self._places_of(self.found.matching)
        self.sources = self._places_of(self.found.showing)
        self.layer, self.scan, self.clearness = self._find_telling_layer(slots)
        vars(self).pop("splits", None)
        self.context = [plain_part(place) for place, _ in self.places]
        self.found = self._find()

    def _places_of(self, groups: Sequence[Sequence[int]]) -> list[PlaceAt]:
        """Places of images, some of each slot."""
        places: list[PlaceAt] = []
        for slot, numbers in zip(self.slots, groups, strict=True):
            for each in spread(numbers, TELLING):
                place = Place(latent=self.numbers[each], mask=slot.mask)
                places.append((place, ("context",)))
        return places

    def _move_pairs(self, slots: Sequence[Slot]) -> list[Any]:
        """Move the given pairs to other slots, but for those whose target does not match."""
        moved = []
        for number, slot in enumerate(self.slots):
            for pair in self.given_pairs:
                target = pair["target"]
                if target["mask"] == {"box": edges_of(slot.box)} and self._fits(target, number):
                    moved += move_pair(pair, slot.box, slots[number].box)
        return moved

    def _fits(self, target: Mapping[str, Any], slot: int) -> bool:
        """Whether the context matches at the place of a target."""
        place = Place.model_validate(target)
        keys, weights = self.tuned.select(self.layer, [(place, ("target",))])
        mean = (weights @ keys / weights.sum()).double()
        response = float(self.scan.direction(*self.context_keys()) @ mean)
        return response > self.splits[slot].threshold
