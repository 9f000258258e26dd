"""Traces of an edit: visible change of pictures where its rule does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.intervals import Estimates, Ratio, start_bootstrap
from editspec.engine.model_session import ModelSession
from editspec.engine.result import count_of, to_plain
from editspec.modalities.image.artefacts import (
    STRONG,
    THRESHOLDS,
    VISIBLE,
    has_artefact,
    local_mean,
)
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_compiler.modalities.image.expected import find_unseen_latents
from editspec_runtime.core.executor import IN_PROCESS, Executor
from editspec_runtime.core.progress import StepCallback, ignore_steps
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.parallel import map_parts, separate_models
from editspec_runtime.maths.sampled_keys import numbers_per_item
from editspec_runtime.modalities.image.architecture import ImageArchitecture
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.retrieval import respond_on_map

LARGEST_VIEW = 128
"""The size that larger pictures are averaged down to: a spot is seen at the size of a picture."""

AT_ONCE = 2**22
"""Pixels of the pictures that are held at once, besides what is kept of them."""

BATCH = 16
"""Pictures of an item of work, at the most."""

WORST = 5
"""The number of pictures that are named."""


def view_size(architecture: ImageArchitecture) -> int:
    """Return the size at which pictures of a model are looked at."""
    return min(architecture.image_size, LARGEST_VIEW)


def view_pictures(pictures: Tensor) -> Tensor:
    """Bring pictures [n, 3, h, w] to the size at which they are looked at, on the CPU."""
    size = min(pictures.shape[-1], LARGEST_VIEW)
    return F.adaptive_avg_pool2d(pictures.float().cpu(), size)


@dataclass(frozen=True)
class _Views:
    """A function that draws pictures as they are looked at."""

    generator: Generator

    def __call__(self, latents: Tensor) -> Tensor:
        """Draw latents, [n, 3, size, size] on the CPU."""
        return view_pictures(render_clamped(self.generator, latents))


def draw_views(generator: Generator, latents: Tensor, executor: Executor = IN_PROCESS) -> Tensor:
    """Draw images as they are looked at, [n, 3, size, size] on the CPU.

    The executor draws as many as are held at once in an item.
    """
    batches = torch.split(latents, min(BATCH, count_at_once(generator.architecture.image_size)))
    drawn = executor.map(_Views(generator), batches, latents.device, threaded=True)
    return torch.cat(list(drawn))


@dataclass(frozen=True)
class KeyMatch:
    """Where the key of an edit's context matches.

    A position matches that has at least as much of the direction as the mean key has: as much as a
    position of the context has on average.

    Attributes
    ----------
    layer
        The edited layer.
    direction
        C^-1 k of the mean key k of the context, [in_features].
    least
        The response of k itself to that direction.
    """

    layer: str
    direction: Tensor
    least: float

    @torch.no_grad()
    def find_allowed(self, generator: Generator, latents: Tensor) -> Tensor:
        """Find the pixels of images that the edit may change.

        They are those of the positions that match, and of the positions next to these: a kernel
        reaches as far.

        Parameters
        ----------
        generator
            The model before the edit.
        latents
            [n, latent_size], or w of every layer.

        Returns
        -------
        Tensor
            [n, size, size] of truth values on the CPU, where size is that of `view_size`.
        """
        # One by one, as other batches give other last bits, which a threshold makes visible.
        parts = torch.split(generator.to_model(latents), 1)
        numbers = numbers_per_item(generator, self.layer)
        generators = separate_models(generator, numbers, len(parts))
        finders = [partial(self._find_allowed, each) for each in generators]
        return torch.cat(list(map_parts(finders, parts)))

    def _find_allowed(self, generator: Generator, latents: Tensor) -> Tensor:
        key = generator.trace(self.layer, latents).key
        matches = (respond_on_map(key, self.direction) >= self.least).float()
        around = F.max_pool2d(matches[:, None], 3, 1, 1)
        # Every pixel that a position covers in part, whichever of the two is smaller.
        size = view_size(generator.architecture)
        return F.adaptive_max_pool2d(around, size)[:, 0].cpu() > 0


def find_match(session: ModelSession, number: int, generator: Generator) -> KeyMatch:
    """Find where the context's key of edit `number` matches, as `render --key` shows it.

    `generator` is the model before the edit. Raises `SpecError` where a mask of the context
    vanishes at the edited layer.
    """
    layer = session.loaded.spec.edits[number].layer
    keys, weights = find_context_keys(session.loaded, number, generator)
    keys, weights = keys.cpu().double(), weights.cpu().double()
    direction = mean_direction(session.moment(generator, layer), keys, weights)[0]
    mean = weights @ keys / weights.sum()
    # In the precision of the model, in which positions respond.
    direction = direction.to(generator.weight(layer))
    return KeyMatch(layer, direction, float(mean.to(direction) @ direction))


@dataclass(frozen=True)
class Traces:
    """Change of pictures where none is allowed.

    Attributes
    ----------
    change
        The mean absolute change over the colours, of pictures in -1..1, and 0 where change is
        allowed; [n, size, size] float32 on the CPU.
    allowed
        How much of each pixel may change, [n, size, size] float32 in 0..1.
    """

    change: Tensor
    allowed: Tensor

    @staticmethod
    def between(before: Tensor, after: Tensor, allowed: Tensor) -> Traces:
        """Compare pictures [n, 3, h, w] in -1..1; `allowed` is as in `find_traces`."""
        return Traces.of(compare_views(before, after), allowed)

    @staticmethod
    def of(change: Tensor, allowed: Tensor) -> Traces:
        """Take the change of pictures [n, size, size] as far as it is not allowed."""
        return Traces(change * (1 - allowed.float()), allowed.float())

    def are_visible(self, threshold: float) -> Tensor:
        """Tell in which pictures there is a spot of change above a threshold, [n]."""
        return has_artefact(self.change, threshold)

    def share(self, threshold: float) -> float:
        """Return the share of the pictures with such a spot."""
        return float(self.are_visible(threshold).double().mean())

    @property
    def peaks(self) -> Tensor:
        """The largest mean change of a 3 x 3 neighbourhood in each picture, [n]."""
        return local_mean(self.change).flatten(1).amax(1)

    def rank(self) -> list[int]:
        """Rank the pictures by their peaks, the worst first."""
        order: list[int] = self.peaks.argsort(descending=True, stable=True).tolist()
        return order


def find_traces(
    before: Generator,
    after: Generator,
    latents: Tensor,
    allowed: Tensor,
    progress: StepCallback = ignore_steps,
    executor: Executor = IN_PROCESS,
) -> Traces:
    """Find what an edit changes where it should not.

    Parameters
    ----------
    before, after
        The models before and after the edit.
    latents
        [n, latent_size], or w of every layer.
    allowed
        How much of each pixel may change, [n, size, size] in 0..1 or of truth values, where size
        is that of `view_size`.
    progress
        Is called with the count of pictures that are compared, and of all.
    executor
        Draws and compares pictures, as many as are held at once in an item.
    """
    changes: list[Tensor] = []
    batches = torch.split(latents, count_at_once(before.architecture.image_size))
    compared = executor.map(_Comparison(before, after), batches, latents.device, threaded=True)
    progress(0, len(latents))
    for change in compared:
        changes.append(change)
        progress(sum(map(len, changes)), len(latents))
    return Traces.of(torch.cat(changes), allowed)


@dataclass(frozen=True)
class _Comparison:
    """A function that draws and compares the pictures of two models."""

    before: Generator
    after: Generator

    def __call__(self, latents: Tensor) -> Tensor:
        """Compute how much the pictures of latents differ, [n, size, size] on the CPU."""
        return compare_views(
            render_clamped(self.before, latents), render_clamped(self.after, latents)
        )


@dataclass(frozen=True)
class UnseenTraces:
    """Traces of an edit in the images of a check that names none.

    Attributes
    ----------
    latents
        The images, [n, latent_size].
    traces
        What changes in them.
    estimates
        The numbers of `trace_ratios`, with intervals.
    """

    latents: Tensor
    traces: Traces
    estimates: Estimates


@torch.no_grad()
def find_unseen_traces(
    session: ModelSession,
    number: int,
    before: Generator,
    after: Generator,
    progress: StepCallback = ignore_steps,
) -> UnseenTraces | None:
    """Find what edit `number` changes where it should not, as the check `trace` does.

    `session` gives C of `before`. None where the edit has no key, or one that matches everywhere.
    """
    try:
        match = find_match(session, number, before)
    except (NumericalError, SpecError):
        # A method that needs no keys builds edits whose context gives none.
        return None
    latents = find_unseen_latents(session.loaded, before)
    allowed = match.find_allowed(before, latents)
    if bool(allowed.all()):
        return None
    traces = find_traces(before, after, latents, allowed, progress, session.travelling)
    estimates = Estimates.of(trace_ratios(traces), start_bootstrap())
    return UnseenTraces(latents, traces, estimates)


def compare_views(before: Tensor, after: Tensor) -> Tensor:
    """Compute how much pictures [n, 3, h, w] differ as they are looked at, [n, size, size]."""
    size = min(before.shape[-1], LARGEST_VIEW)
    parts = [torch.split(pictures, count_at_once(before.shape[-1])) for pictures in (before, after)]
    changes = []
    for one, other in zip(*parts, strict=True):
        difference = (other - one).float().cpu()
        changes.append(F.adaptive_avg_pool2d(difference, size).abs().mean(1))
    return torch.cat(changes)


def count_at_once(image_size: int) -> int:
    """Return how many pictures are held at once."""
    return max(1, AT_ONCE // image_size**2)


def trace_ratios(traces: Traces) -> dict[str, Ratio]:
    """Make the numbers of traces.

    Returns
    -------
    dict[str, Ratio]
        ``trace`` and ``strong``: the share of the pictures with a visible and with a strong spot of
        change; ``trace-T`` for every T of `THRESHOLDS`.
    """
    found = {each: Ratio.mean(traces.are_visible(each)) for each in THRESHOLDS}
    named = {f"trace-{each:g}": ratio for each, ratio in found.items()}
    return {"trace": found[VISIBLE], "strong": found[STRONG], **named}


def describe_traces(traces: Traces, names: Sequence[int | str]) -> tuple[str, dict[str, Any]]:
    """Describe traces in words and as plain values; `names` are those of the pictures.

    Returns
    -------
    tuple
        A remark, and facts: ``pictures`` is their count, ``intervals`` those of `trace_ratios`,
        ``allowed`` the share of their pixels that may change, ``thresholds`` the share of the
        pictures with a spot above each of `THRESHOLDS`, and ``worst`` the `WORST` pictures that
        change most, each with its ``image`` and its ``change``, the largest mean of a 3 x 3
        neighbourhood.
    """
    found = Estimates.of(trace_ratios(traces), start_bootstrap())
    visible = int(traces.are_visible(VISIBLE).sum())
    peaks, allowed = traces.peaks.tolist(), float(traces.allowed.double().mean())
    worst = [{"image": names[each], "change": peaks[each]} for each in traces.rank()[:WORST]]
    named = ", ".join(str(each["image"]) for each in worst)
    remark = (
        f"{visible} of {count_of(len(names), 'picture')}, where {allowed:.0%} of the pixels may "
        f"change; the worst: {named}"
    )
    facts = {
        "pictures": len(names),
        "intervals": to_plain(found.intervals),
        "allowed": allowed,
        "thresholds": {f"{each:g}": found.numbers[f"trace-{each:g}"] for each in THRESHOLDS},
        "worst": worst,
    }
    return remark, facts
