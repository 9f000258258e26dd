"""What tuning an edit on images needs: examples of its rule, images to preserve, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields, with_fields
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import spec_stream
from editspec.modalities.image.likeness import (
    Scan,
    Split,
    find_nearest,
    scan,
    split_in_two,
    spread,
)
from editspec.modalities.image.report import Pictures, arrange_rows
from editspec.modalities.image.slots import (
    Slot,
    find_slots,
    halve_pair,
    halve_slots,
    latents_of,
    plain_pair,
    plain_part,
    slot_areas,
)
from editspec.modalities.image.traces import KeyMatch, find_match, find_traces, view_size
from editspec.modalities.image.trial_judge import TrialJudge
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.context import select_keys
from editspec_compiler.modalities.image.expected import ExpectedOutput, expected_outputs
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import (
    ImageEdit,
    Place,
    image_spec,
    list_copies,
)
from editspec_compiler.problems import SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.core.model import Model
from editspec_runtime.errors import NumericalError, UsageError
from editspec_runtime.maths.channelwise import is_channelwise
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.modalities.image.generator import require_generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.maps import Box
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import SWEEPS

LEAST_POSITIONS, MOST_POSITIONS = 8, 64
"""The width of the key maps of layers that are tried: places are lost in smaller ones."""

MOST_UNKNOWNS = 4700
"""The numbers of a change for each output channel, up to which a layer is tried."""

JUDGED, SHOWN = 4, 8
"""One image is judged for so many that are looked through; the images that are shown."""

CLEAR = 0.85
"""The share of the variance between both groups below which the places are tried in halves."""

WISHES = 32
"""The places at which efficacy is judged."""

SPOT = 4
"""A spot that is preserved is this part of the picture wide."""

OVERLAP = 0.1
"""The share of a preserved spot that may lie where the edit is meant to change something."""


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


class ImageTuner:
    """The tuner of an edit on images.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the edit's number, from 0.
    images
        The number of images of the spec's stream that are looked through.
    layers
        The layers to try; empty: all that fit.
    """

    def __init__(
        self, session: BuildSession, number: int, images: int, layers: Sequence[str] = ()
    ) -> None:
        self.session, self.number = session, number
        self.generator = generator_of(session)
        self.edit: ImageEdit = image_spec(session.loaded.spec).edits[number]
        self._require_copy()
        self.stream = spec_stream(session, self.generator)
        used = self._used_latents()
        self.numbers = [n for n in range(images + len(used)) if n not in used][:images]
        self.layers = self._choose_layers(layers)
        architecture = self.generator.architecture
        coarsest = min(architecture.layers[name].key_size for name in self.layers)
        stride = architecture.image_size // coarsest
        self.slots = find_slots(self._resolver(self.layers[0]), self._places(), coarsest)
        self.layer, self.scan, clearness = self._find_telling_layer(self.slots)
        self.given_pairs = [plain_pair(pair) for pair in self.edit.sides]
        if clearness < CLEAR:
            self._halve_places(clearness, stride)
        self.found = self._find(self.scan)

    @property
    def about(self) -> str:
        """The images that judge, and the places in them."""
        count, wishes = len(self.judged), len(self.wishes)
        return f"{count} images of stream {SWEEPS}, {wishes} places where the context matches"

    # Examples

    def examples(self, count: int) -> Fields:
        """The given pairs, the context's places as targets, and pairs that were found."""
        pairs = list(self.given_pairs)
        used: set[int] = set()
        for target, slot in self._targets(count):
            pairs.append(self._pair(target, slot, used))
        return {"pairs": pairs, "source": None, "target": None}

    def _targets(self, count: int) -> list[tuple[int, int]]:
        """The number and the slot of images whose slots match, evenly over the slots."""
        each = -(-count // len(self.slots))
        found = []
        for slot, matching in enumerate(self.found.matching):
            found += [(number, slot) for number in spread(matching, each)]
        return found[:count]

    def _pair(self, target: int, slot: int, used: set[int]) -> dict[str, Any]:
        """An example: the source that is most alike around the target, and not `used`."""
        mask = self.slots[slot].mask
        place = {"latent": self.numbers[target], "mask": mask}
        source = self._nearest_source(self.pictures[target], slot, used)
        if source is None:
            return {"source": self._given_source, "target": place}
        used.add(source)
        return {"source": {"latent": self.numbers[source], "mask": mask}, "target": place}

    def _nearest_source(self, picture: Tensor, slot: int, used: set[int]) -> int | None:
        sources = [each for each in self.found.showing[slot] if each not in used]
        if not sources:
            return None
        area = self._view_area(self.slots[slot].box)
        return sources[find_nearest(picture, self.pictures[sources], area)[0]]

    @property
    def _given_source(self) -> Any:
        return self.given_pairs[0]["source"]

    # What is preserved

    def first_preserved(self, count: int) -> list[Any]:
        """Some of the images that match nowhere."""
        given = [plain_part(place) for place in self.edit.preserve or ()]
        others = spread(self.found.others, count)
        return [*given, *({"latent": self.numbers[each]} for each in others)]

    def abbreviate(self, preserve: Sequence[Any]) -> list[Any]:
        """Whole images as one entry, behind all others."""
        whole, places = list[int](), list[Any]()
        for entry in preserve:
            if list(entry) == ["latent"] and isinstance(entry["latent"], int):
                whole.append(entry["latent"])
            else:
                places.append(entry)
        return [*places, {"latents": whole}] if whole else places

    def find_changed(self, model: Model, known: Sequence[Any], count: int) -> list[Any]:
        """Images, and spots of images that match elsewhere, which the model visibly changes."""
        traces = find_traces(
            self.generator,
            require_generator(model),
            self.latents,
            self.match_allowed,
            executor=self.session.travelling,
        )
        visible = traces.are_visible(VISIBLE)
        kept = [entry["latent"] for entry in known]
        others, found = set(self.found.others), list[Any]()
        for each in traces.rank():
            if not visible[each] or len(found) == count:
                break
            number = self.numbers[each]
            if number in kept:
                continue
            if each in others:
                found.append({"latent": number})
            elif spot := self._spot(traces.change[each], self.match_allowed[each]):
                found.append({"latent": number, "mask": {"box": spot}})
        return found

    def _spot(self, change: Tensor, allowed: Tensor) -> list[int] | None:
        """The box around the largest change, in pixels; None where the edit is meant there."""
        size = len(change)
        width = max(1, size // SPOT)
        mean = F.avg_pool2d(change[None, None], 3, 1, 1)[0, 0]
        row, column = divmod(int(mean.argmax()), size)
        top = min(max(0, row - width // 2), size - width)
        left = min(max(0, column - width // 2), size - width)
        inside = allowed[top : top + width, left : left + width].float().mean()
        if inside > OVERLAP:
            return None
        zoom = self.generator.architecture.image_size // size
        return [zoom * edge for edge in (left, top, left + width, top + width)]

    # The judge

    @cached_property
    def judge(self) -> TrialJudge:
        """The judge of efficacy where the context matches in unseen images, and of the rest."""
        return TrialJudge(
            self.session,
            self.number,
            self.generator,
            tuple(self.wishes),
            self.judged,
            self.match.find_allowed(self.generator, self.judged),
        )

    @torch.no_grad()
    def draw(self, model: Model) -> Pictures:
        """The judged images that change most where they should not, before and after."""
        after = require_generator(model)
        worst = self.judge.find_traces(after).rank()[:SHOWN]
        latents = self.judged[worst]
        rows = {
            "before": render_clamped(self.generator, latents),
            "after": render_clamped(after, latents),
        }
        return arrange_rows(worst, rows)

    @cached_property
    def judged(self) -> Tensor:
        """Latents of images that no trial is made of, [n, latent_size]."""
        count = max(SHOWN, len(self.numbers) // JUDGED)
        latents = image_spec(self.session.loaded.spec).latents
        size = self.generator.architecture.latent_size
        return LatentStream(SWEEPS, size, latents.sampler).items(range(count))

    @cached_property
    def match(self) -> KeyMatch:
        """Where the context's key matches, at the layer that tells it best."""
        loaded = self._at_layer(self.layer)
        return find_match(replace(self.session, loaded=loaded), self.number, self.generator)

    @cached_property
    def match_allowed(self) -> Tensor:
        """The pixels that may change in the images that are looked through."""
        return self.match.find_allowed(self.generator, self.latents)

    @cached_property
    def wishes(self) -> list[ExpectedOutput]:
        """The pictures that the edit asks for, at places of judged images that match.

        Where none matches, those of the given targets.
        """
        areas = slot_areas(self.slots, self.generator, self.layer)
        means = scan(self.generator, self.layer, self.judged, areas, self._progress("judged"))
        responses = replace(self.scan, means=means.means).respond(*self._context_keys(self.layer))
        views = self._draw_views(self.judged)
        pairs = []
        for slot, (mask, split) in enumerate(zip(self.slots, self.splits, strict=True)):
            matching = torch.nonzero(responses[:, slot] > split.threshold)[:, 0].tolist()
            for each in spread(matching, WISHES // len(self.slots)):
                source = self._nearest_source(views[each], slot, set())
                given = self._given_source
                if source is not None:
                    given = {"latent": self.numbers[source], "mask": mask.mask}
                place = {"latent": self.judged[each].tolist(), "mask": mask.mask}
                pairs.append({"source": given, "target": place})
        rule = {"pairs": pairs, "source": None, "target": None} if pairs else {}
        loaded = with_fields(
            self._at_layer(self.layer), self.number, {**rule, "observe": None, "refine": None}
        )
        moment = self.session.moment
        return list(expected_outputs(loaded, self.number, self.generator, moment, full=True))

    # Slots and scans

    @cached_property
    def latents(self) -> Tensor:
        """Latents of the images that are looked through, [n, latent_size]."""
        return self.stream.items(self.numbers)

    @cached_property
    def pictures(self) -> Tensor:
        """These images as they are looked at, [n, 3, size, size]."""
        return self._draw_views(self.latents)

    def _draw_views(self, latents: Tensor) -> Tensor:
        size = view_size(self.generator.architecture)
        views = []
        for batch in torch.split(latents, SHOWN):
            drawn = render_clamped(self.generator, batch).float().cpu()
            views.append(F.adaptive_avg_pool2d(drawn, size))
        return torch.cat(views)

    def _view_area(self, box: Box) -> Tensor:
        size = self.generator.architecture.image_size
        area = torch.zeros(size, size)
        area[box.rows(), box.columns()] = 1
        view = view_size(self.generator.architecture)
        return F.adaptive_max_pool2d(area[None], view)[0] > 0

    def _find_layers(self) -> list[str]:
        """The layers that are tried: those whose maps have places, and whose change is small."""
        found = []
        for name, layer in self.generator.architecture.layers.items():
            if layer.row or not LEAST_POSITIONS <= layer.key_size <= MOST_POSITIONS:
                continue
            kernel = kernel_of(self.generator.weight(name))
            unknowns = kernel.shape[1] * kernel.shape[2:].numel()
            if unknowns <= MOST_UNKNOWNS and is_channelwise(self.generator.function(name)):
                found.append(name)
        if not found:
            raise self._error(
                ("layer",),
                "no layer of this model is of a kind and size that tune can try",
                "vary layer and rank by editspec sweep",
            )
        return found

    def _choose_layers(self, given: Sequence[str]) -> list[str]:
        """The layers to try: those that are given, which have to fit, or all that do."""
        fitting = self._find_layers()
        unfit = [name for name in given if name not in fitting]
        if unfit:
            raise UsageError(
                f"tune does not try {' and '.join(unfit)} of this model.",
                f"Give some of these: {', '.join(fitting)}.",
            )
        return list(given) or fitting

    def _halve_places(self, clearness: float, stride: int) -> None:
        """Cut the places in two where images fall more clearly into two groups by halves.

        A place that holds two things is told from others by neither.
        """
        slots = halve_slots(self.slots, stride)
        pairs: list[Any] = []
        for pair, path in self._resolver(self.layers[0]).sides():
            halves = halve_pair(self._resolver(self.layers[0]), pair, path, stride)
            if not halves:
                return
            pairs += halves
        layer, found, other = self._find_telling_layer(slots)
        if other > clearness:
            self.slots, self.given_pairs = slots, pairs
            self.layer, self.scan = layer, found

    def _find_telling_layer(self, slots: Sequence[Slot]) -> tuple[str, Scan, float]:
        """The layer at which the context's key splits images most clearly into two groups."""
        best: tuple[float, str, Scan] | None = None
        for name in self.layers:
            areas = slot_areas(slots, self.generator, name)
            found = scan(
                self.generator, name, self.latents, areas, self._progress(f"images at {name}")
            )
            try:
                responses = found.respond(*self._context_keys(name))
            except (SpecError, NumericalError):
                # A mask vanishes at the layer, or no image has such a key.
                continue
            clearness = min(split_in_two(each).clearness for each in responses.T)
            if best is None or clearness > best[0]:
                best = clearness, name, found
        if best is None:
            raise self._error(("context",), "no layer tells this context from other images")
        return best[1], best[2], best[0]

    @cached_property
    def splits(self) -> list[Split]:
        """What tells the images that match from those that do not, for each slot."""
        responses = self.scan.respond(*self._context_keys(self.layer))
        return [split_in_two(each) for each in responses.T]

    def _find(self, found: Scan) -> Found:
        """Find images for examples and images that match nowhere."""
        context = found.respond(*self._context_keys(self.layer))
        source = found.respond(*self._source_keys(self.layer))
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

    def _context_keys(self, layer: str) -> tuple[Tensor, Tensor]:
        return self._select(layer, self._places())

    def _source_keys(self, layer: str) -> tuple[Tensor, Tensor]:
        places: list[tuple[Place, SpecPath]] = []
        for pair, path in self._resolver(layer).sides():
            for copied, below in list_copies(pair.source):
                mask = copied.mask or pair.target.mask
                for latent in latents_of(copied):
                    places.append((Place(latent=latent, mask=mask), (*path, *below)))
        return self._select(layer, places)

    def _select(
        self, layer: str, places: Sequence[tuple[Place, SpecPath]]
    ) -> tuple[Tensor, Tensor]:
        loaded = self._at_layer(layer)
        found = [
            select_keys(loaded, self.number, self.generator, place, *path) for place, path in places
        ]
        keys, weights = zip(*found, strict=True)
        return torch.cat(keys).cpu(), torch.cat(weights).cpu()

    def _places(self) -> list[tuple[Place, SpecPath]]:
        """The places of the context, and the targets, in which the rule is to hold as well."""
        places: list[tuple[Place, SpecPath]] = []
        for pair, path in self._resolver(self.edit.layer).sides():
            places.append((pair.target, (*path, "target")))
        for index, place in enumerate(self.edit.context or ()):
            places.append((place, ("context", index)))
        return places

    # Helpers

    def _resolver(self, layer: str) -> Resolver:
        return Resolver(self._at_layer(layer), self.generator, self.number)

    def _at_layer(self, layer: str) -> Any:
        return with_fields(self.session.loaded, self.number, {"layer": layer, "observe": None})

    def _progress(self, what: str) -> Any:
        return lambda done, total: self.session.progress(what, done, total)

    def _used_latents(self) -> set[int]:
        """The numbers of the stream that the edit itself names."""
        named = [place.latent for place, _ in self._places()]
        for pair in self.edit.sides:
            for copied, _ in list_copies(pair.source):
                named += latents_of(copied)
        return {latent for latent in named if isinstance(latent, int)}

    def _require_copy(self) -> None:
        """Raise a `SpecError` where the edit has no images that could be looked for."""
        for pair, path in Resolver(self.session.loaded, self.generator, self.number).sides():
            if self.edit.erases:
                raise self._error(
                    (*path, "source"),
                    "tune looks for images that show what the source shows, and an erased value "
                    "is shown by none",
                    "write a source: {latent: N, mask: ...}, or vary the edit by editspec sweep",
                )
            scenes: list[tuple[Any, SpecPath]] = [*list_copies(pair.source)]
            scenes.append((pair.target, ("target",)))
            for scene, below in scenes:
                if getattr(scene, "intervene", None) is not None:
                    raise self._error(
                        (*path, *below, "intervene"),
                        "tune looks for images like this one, and none is under an intervention",
                        "vary the edit by editspec sweep",
                    )

    def _error(self, path: SpecPath, message: str, hint: str = "") -> SpecError:
        where = ("edits", self.number, *path)
        return self.session.loaded.error(where, message, hint, Code.METHOD_NEEDS)
