"""What tuning an edit on images needs: examples of its rule, images to preserve, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.explore import spec_stream
from editspec.modalities.image.likeness import (
    find_nearest,
    scan,
    spread,
    tell_apart,
)
from editspec.modalities.image.matches import CLEAR, TELLING, Matches
from editspec.modalities.image.report import Pictures, arrange_rows
from editspec.modalities.image.slots import (
    abbreviate_places,
    plain_part,
    slot_areas,
)
from editspec.modalities.image.traces import (
    KeyMatch,
    Traces,
    draw_views,
    find_match,
    view_size,
)
from editspec.modalities.image.trial_judge import TrialJudge, Wish
from editspec.modalities.image.tuned_edit import FEWEST_POSITIONS, TunedEdit
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.schema import (
    image_spec,
)
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import StepCallback
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.maps import Box
from editspec_runtime.modalities.image.rendering import (
    render_clamped,
)
from editspec_runtime.modalities.image.streams import SWEEPS

JUDGED, SHOWN = 4, 8
"""One image is judged for so many that are looked through; the images that are shown."""

WISHES, FEW_WISHES = 32, 16
"""The places at which efficacy is judged, and those below which more images are looked through."""

SPOT = 4
"""A spot that is preserved is this part of the picture wide."""

OVERLAP = 0.1
"""The share of a preserved spot that may lie where the edit is meant to change something."""

ENOUGH = 48
"""The places that match, below which more images are looked through."""


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
        self.tuned = TunedEdit(session, number)
        self.generator, self.edit = self.tuned.generator, self.tuned.edit
        self.numbers = self.tuned.unused_numbers(images)
        self.latents = spec_stream(session, self.generator).items(self.numbers)
        self.layers = self.tuned.choose_layers(layers)
        self.named = list(layers)
        self.tuned.require_wish()
        self.matches = Matches(
            self.tuned,
            self.layers,
            self.numbers,
            self.latents,
            lambda: self.pictures,
            self._progress,
        )
        self.layer, self.slots = self.matches.layer, self.matches.slots
        self.found = self.matches.found

    @property
    def large_layers(self) -> frozenset[str]:
        """Layers whose whole change is too large to be found at once."""
        return frozenset(name for name in self.layers if self.tuned.is_large(name))

    @property
    def is_scarce(self) -> bool:
        """Whether few of the images match."""
        return sum(map(len, self.found.matching)) < ENOUGH

    def output_layers(self, layer: str) -> list[str]:
        """The layer and the one before it, which may have smaller maps: no place is pasted there.

        Where layers were named, both are of these.
        """
        names = self.tuned.find_layers(FEWEST_POSITIONS)
        names = [name for name in names if name in self.named or not self.named]
        last = names.index(layer) + 1
        return names[max(0, last - 2) : last]

    @property
    def about(self) -> str:
        """The images that judge, and the places in them."""
        count, wishes = len(self.judged), len(self.wishes)
        return f"{count} images of stream {SWEEPS}, {wishes} places where the context matches"

    # Examples

    def examples(self, count: int) -> Fields:
        """The given pairs, the context's places as targets, and pairs that were found."""
        pairs = list(self.matches.given_pairs)
        used: set[int] = set()
        for target, slot in self._targets(count):
            pairs.append(self._pair(target, slot, used))
        rule = {"pairs": pairs, "source": None, "target": None}
        if self.matches.context is not None:
            return {**rule, "context": self.matches.context}
        return rule

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
            return {"source": self.matches.given_source, "target": place}
        used.add(source)
        return {"source": {"latent": self.numbers[source], "mask": mask}, "target": place}

    def _nearest_source(self, picture: Tensor, slot: int, used: set[int]) -> int | None:
        sources = [each for each in self.found.showing[slot] if each not in used]
        if not sources:
            return None
        area = self._view_area(self.slots[slot].box)
        return sources[find_nearest(picture, self.pictures[sources], area)[0]]

    # What is preserved

    def first_preserved(self, count: int) -> list[Any]:
        """Some of the images that match nowhere."""
        given = [plain_part(place) for place in self.edit.preserve or ()]
        others = spread(self.found.others, count)
        return [*given, *({"latent": self.numbers[each]} for each in others)]

    def abbreviate(self, places: Sequence[Any]) -> list[Any]:
        """Images of one place, or whole ones, as one entry; whole images last."""
        return abbreviate_places(places)

    def find_changed(self, model: Model, known: Sequence[Any], count: int) -> list[Any]:
        """Images, and spots of images that match elsewhere, which the model visibly changes."""
        after = self._draw_views(self.latents, require_generator(model))
        traces = Traces.of((after - self.pictures).abs().mean(1), self.match_allowed)
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
            tuple(self.wishes),
            self.judged,
            self.judged_views,
            self._find_allowed(self.judged, self.judged_matching),
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
        return self._unseen(max(SHOWN, len(self.numbers) // JUDGED))

    @cached_property
    def judged_views(self) -> Tensor:
        """The judged images before the edit, as they are looked at, [n, 3, size, size]."""
        return self._draw_views(self.judged)

    @cached_property
    def judged_matching(self) -> list[list[int]]:
        """The judged images that match by their numbers, for each slot."""
        return self._find_matching(self.judged)

    @cached_property
    def match(self) -> KeyMatch:
        """Where the context's key matches, at the layer that tells it best."""
        context = self.matches.context
        given = {} if context is None else {"context": context}
        loaded = self.tuned.at_layer(self.layer, **given)
        match = find_match(replace(self.session, loaded=loaded), self.number, self.generator)
        if self.matches.clearness >= CLEAR:
            return match
        # Places that match respond by less than those that were given, which the direction fits.
        least = max(split.threshold for split in self.matches.splits)
        return replace(match, least=min(match.least, least))

    @cached_property
    def match_allowed(self) -> Tensor:
        """The pixels that may change in the images that are looked through."""
        return self._find_allowed(self.latents, self.found.matching)

    def _find_allowed(self, latents: Tensor, matching: Sequence[Sequence[int]]) -> Tensor:
        """Find the pixels of images that may change: [n, size, size] of truth values.

        They are those where the key matches and, in places that match, those in which both kinds of
        images differ: what is drawn there may be wider than what was there.
        """
        allowed = self.match.find_allowed(self.generator, latents)
        for numbers, differing in zip(matching, self.differing, strict=True):
            allowed[list(numbers)] |= differing
        return allowed

    @cached_property
    def differing(self) -> list[Tensor]:
        """For each slot, the pixels in which both kinds of images differ, and those next to them.

        None do where there are few images of a kind.
        """
        found = []
        for slot, *kinds in zip(self.slots, self.found.matching, self.found.showing, strict=True):
            area = self._view_area(slot.box)
            if min(map(len, kinds)) < TELLING:
                found.append(torch.zeros_like(area))
                continue
            ones, others = (self.pictures[numbers] for numbers in kinds)
            inside = tell_apart(ones, others) & area
            # What differs has blurred edges.
            around = F.max_pool2d(inside.float()[None, None], 3, 1, 1)[0, 0]
            found.append(around > 0)
        return found

    @cached_property
    def wishes(self) -> list[Wish]:
        """The pictures that the edit asks for, at places of unseen images that match.

        Where few of the judged images match, as many images are looked through as for examples.
        Where none matches, the pictures are those of the given targets.
        """
        latents, matching = self.judged, self.judged_matching
        if sum(map(len, matching)) < FEW_WISHES and len(latents) < len(self.numbers):
            latents = self._unseen(len(self.numbers))
            matching = self._find_matching(latents)
        pairs, numbers = [], list[int | None]()
        for slot, (mask, found) in enumerate(zip(self.slots, matching, strict=True)):
            for each in spread(found, WISHES // len(self.slots)):
                judged = each < len(self.judged)
                view = self.judged_views[each] if judged else self._draw_views(latents[[each]])[0]
                source = self._nearest_source(view, slot, set())
                given = self.matches.given_source
                if source is not None:
                    given = {"latent": self.numbers[source], "mask": mask.mask}
                place = {"latent": latents[each].tolist(), "mask": mask.mask}
                pairs.append({"source": given, "target": place})
                numbers.append(each if judged else None)
        rule = {"pairs": pairs, "source": None, "target": None} if pairs else {}
        loaded = self.tuned.at_layer(self.layer, **rule, refine=None)
        moment = self.session.moment
        outputs = expected_outputs(loaded, self.number, self.generator, moment, full=True)
        return [Wish(*each) for each in zip_longest(outputs, numbers)]

    def _find_matching(self, latents: Tensor) -> list[list[int]]:
        """Find the images that match by their numbers, for each slot."""
        areas = slot_areas(self.slots, self.generator, self.layer)
        found = scan(self.generator, {self.layer: areas}, latents, self._progress("judged"))
        means = found[self.layer].means
        responses = replace(self.matches.scan, means=means).respond(*self.matches.context_keys())
        groups = []
        for slot, split in enumerate(self.matches.splits):
            above = responses[:, slot] > split.threshold
            groups.append(torch.nonzero(above)[:, 0].tolist())
        return groups

    def _unseen(self, count: int) -> Tensor:
        """Latents of images that no trial is made of, [count, latent_size]."""
        latents = image_spec(self.session.loaded.spec).latents
        size = self.generator.architecture.latent_size
        return LatentStream(SWEEPS, size, latents.sampler).items(range(count))

    # Pictures

    @cached_property
    def pictures(self) -> Tensor:
        """These images as they are looked at, [n, 3, size, size]."""
        return self._draw_views(self.latents)

    def _draw_views(self, latents: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw images as they are looked at, by the model before the edit or another."""
        return draw_views(generator or self.generator, latents, self.session.travelling)

    def _view_area(self, box: Box) -> Tensor:
        size = self.generator.architecture.image_size
        area = torch.zeros(size, size)
        area[box.rows(), box.columns()] = 1
        view = view_size(self.generator.architecture)
        return F.adaptive_max_pool2d(area[None], view)[0] > 0

    def _progress(self, what: str) -> StepCallback:
        return lambda done, total: self.session.progress(what, done, total)
