"""The examples of an edit that has many: those that trials are made of, and those that judge."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields, with_fields
from editspec.modalities.image.artefacts import THRESHOLDS, VISIBLE
from editspec.modalities.image.explore import spec_stream
from editspec.modalities.image.kinds import Kind
from editspec.modalities.image.report import Pictures, arrange_rows
from editspec.modalities.image.slots import plain_pair, plain_part
from editspec.modalities.image.traces import Traces, draw_views, view_size
from editspec.modalities.image.trial_judge import TrialJudge, Wish
from editspec.modalities.image.tuned_edit import TunedEdit
from editspec_compiler.modalities.image.expected import ExpectedOutput
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.refinement import find_refinement
from editspec_compiler.modalities.image.schema import (
    ImageEdit,
    ImagePair,
    PreservedPlace,
)
from editspec_compiler.modalities.image.sources import choose_sources
from editspec_runtime.core.model import Model
from editspec_runtime.core.rule import Refinement
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import SWEEPS

MANY = 24
"""The pairs, and the whole images that are preserved, from which on an edit has many."""

HELD_OUT = 4
"""One of so many examples judges, and is in no trial."""

JUDGED, SHOWN = 4, 8
"""One image is judged for so many that are looked through; the images that are shown."""

BATCH, LARGEST_MAP = 16, 8
"""The images that are traced together, and the width to which larger maps are averaged down."""

Item = TypeVar("Item")


def has_many_examples(edit: ImageEdit) -> bool:
    """Whether an edit shows by many examples what it does to pictures, and what must stay."""
    whole = [place for place in edit.preserve or () if place.mask is None]
    return edit.refine is not None and len(edit.sides) >= MANY and len(whole) >= MANY


class GivenExamples:
    """The pairs and the preserved images of an edit, and images that are like the latter.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the edit's number, from 0.
    images
        The number of images of the spec's stream that are looked through.
    layers
        Layers to try besides the edit's own.

    Raises
    ------
    SpecError
        The edit erases, or intervenes.
    UsageError
        A layer does not fit.
    """

    def __init__(
        self, session: BuildSession, number: int, images: int, layers: Sequence[str] = ()
    ) -> None:
        self.session, self.number = session, number
        self.tuned = TunedEdit(session, number)
        named = self.tuned.choose_layers(layers) if layers else []
        self.layers = [layer for layer in named if layer != self.tuned.edit.layer]
        self.generator, self.edit = self.tuned.generator, self.tuned.edit
        resolver = self.tuned.resolver(self.edit.layer)
        # What is the nearest of many is the same in every trial.
        self.pairs = [pair for pair, _ in choose_sources(resolver, resolver.sides()).sides]
        self.preserve = list(self.edit.preserve or ())
        kept = [place.latent for place in self.preserve if isinstance(place.latent, int)]
        self.numbers = self.tuned.unused_numbers(images, kept)

    @property
    def about(self) -> str:
        """The images that judge, in words."""
        targets = len(_held_out(self.pairs))
        return (
            f"{targets} targets and {len(self.judge.latents)} images to preserve, none in a trial"
        )

    def trial_fields(self, fields: Fields, added: Sequence[int]) -> Fields:
        """The fields of a trial: nothing that is held out, and `added` images to preserve."""
        rule = _say(_taken(self.pairs), _taken(self.preserve))
        return {**rule, "preserve": [*rule["preserve"], *_whole(added)], **fields}

    def final_fields(self, fields: Fields, added: Sequence[int]) -> Fields:
        """The fields of the edit: all that was given, and `added` images to preserve."""
        if not added:
            return fields
        given = _say(self.pairs, self.preserve)["preserve"]
        return {"preserve": [*given, *_whole(added)], **fields}

    # Images that must stay

    @cached_property
    def kind(self) -> Kind:
        """What tells the preserved images of the trials from their targets."""
        seen = self._aim_of(_taken(self.pairs), _taken(self.preserve))
        whole = seen.kept_area.flatten(1).amin(1) > 0
        return Kind.learn(self._keys(seen.kept[whole]), self._keys(seen.items))

    @cached_property
    def pool(self) -> tuple[list[int], Tensor]:
        """Images of the spec's stream that are of that kind: numbers, and how they look."""
        alike = self.kind.contains(self._keys(self._latents(self.numbers)))
        numbers = [number for number, each in zip(self.numbers, alike, strict=True) if each]
        return numbers, self._draw_views(self._latents(numbers))

    def find_changed(self, model: Model, known: Collection[int], count: int) -> list[int]:
        """Find images of the pool that a model visibly changes, the worst first."""
        numbers, before = self.pool
        if not numbers:
            return []
        after = self._draw_views(self._latents(numbers), require_generator(model))
        nowhere = torch.zeros(len(before), *before.shape[2:])
        traces = Traces.between(before, after, nowhere)
        visible = traces.are_visible(VISIBLE)
        worst = [numbers[each] for each in traces.rank() if visible[each]]
        return [number for number in worst if number not in known][:count]

    # The judge

    @cached_property
    def judge(self) -> TrialJudge:
        """The judge by what no trial is made of: targets, preserved images, and more of these."""
        pairs = _held_out(self.pairs)
        held = self._aim_of(pairs, _held_out(self.preserve))
        wishes = []
        for pair, latent, wanted in zip(pairs, held.items, held.wanted, strict=True):
            before = self.generator.images(latent[None])
            everywhere = torch.ones(before.shape[-2:], dtype=torch.float64)
            output = ExpectedOutput(pair.target, before, wanted[None], everywhere)
            wishes.append(Wish(output, None))
        size = view_size(self.generator.architecture)
        stays = F.adaptive_avg_pool2d((held.kept_area > 0).float().cpu(), size)[:, 0]
        unseen = self._latents(range(len(self.numbers) // JUDGED), SWEEPS)
        unseen = unseen[self.kind.contains(self._keys(unseen))]
        latents = torch.cat([held.kept, unseen.to(held.kept)])
        allowed = torch.cat([1 - stays, torch.zeros(len(unseen), size, size)])
        views = self._draw_views(latents)
        return TrialJudge(
            self.session,
            self.number,
            tuple(wishes),
            latents,
            views,
            allowed,
            # Where nearly all of them visibly change, the larger changes tell trials apart.
            THRESHOLDS,
        )

    @torch.no_grad()
    def draw(self, model: Model) -> Pictures:
        """The judged images that change most where they should not, before and after."""
        after = require_generator(model)
        worst = self.judge.find_traces(after).rank()[:SHOWN]
        latents = self.judge.latents[worst]
        rows = {
            "before": render_clamped(self.generator, latents),
            "after": render_clamped(after, latents),
        }
        return arrange_rows(worst, rows)

    @torch.no_grad()
    def _aim_of(self, pairs: Sequence[ImagePair], preserve: Sequence[PreservedPlace]) -> Refinement:
        """The pictures that some pairs ask for, and the images that must stay as they are."""
        loaded = with_fields(self.session.loaded, self.number, _say(pairs, preserve))
        resolver = Resolver(loaded, self.generator, self.number)
        found = find_refinement(resolver, resolver.sides(), ())
        assert found is not None
        return found

    @torch.no_grad()
    def _keys(self, latents: Tensor) -> Tensor:
        """The maps of keys of the edited layer, averaged down: [n, f]."""
        found: list[Tensor] = []
        for batch in torch.split(self.generator.to_model(latents), BATCH):
            self.session.progress("images", BATCH * len(found), len(latents))
            key = self.generator.trace(self.edit.layer, batch).key
            size = min(key.shape[-1], LARGEST_MAP)
            found.append(F.adaptive_avg_pool2d(key, size).flatten(1).cpu())
        return torch.cat(found)

    def _latents(self, numbers: Sequence[int], seed: int | None = None) -> Tensor:
        """Latents of a stream, by default that of the spec."""
        stream = spec_stream(self.session, self.generator)
        if seed is not None:
            stream = replace(stream, seed=seed)
        return stream.items(numbers)

    def _draw_views(self, latents: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw images as they are looked at, by the model before the edit or another."""
        return draw_views(generator or self.generator, latents, self.session.travelling)


def _held_out(items: Sequence[Item]) -> list[Item]:
    """Every fourth item, which judges."""
    return list(items[HELD_OUT - 1 :: HELD_OUT])


def _taken(items: Sequence[Item]) -> list[Item]:
    """All other items, of which trials are made."""
    return [item for index, item in enumerate(items) if (index + 1) % HELD_OUT]


def _say(pairs: Sequence[ImagePair], preserve: Sequence[PreservedPlace]) -> Fields:
    """The fields of an edit that has these examples."""
    return {
        "pairs": [plain_pair(pair) for pair in pairs],
        "source": None,
        "target": None,
        "preserve": [plain_part(place) for place in preserve],
    }


def _whole(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Entries of ``preserve`` of whole images."""
    return [{"latent": number} for number in numbers]
