"""Judges of edited models by their images, for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates, Ratio, start_bootstrap
from editspec.engine.model_session import ModelSession
from editspec.engine.sweeping import Judge
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.traces import Traces, find_match, trace_ratios
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.errors import NumericalError
from editspec_runtime.methods.solve_edit import loss_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import SWEEPS

ImageJudge = Callable[[Tensor], Estimates]
"""Takes images [n, 3, size, size] of an edited model, and gives measures by name."""

ImageJudgeMaker = Callable[[Tensor, Tensor], ImageJudge]
"""Takes latents and what the unedited model draws of them, and makes a judge."""


def make_judge(
    session: ModelSession,
    images: int,
    experiment: ImageJudgeMaker | None = None,
) -> Judge:
    """Make a judge of the last edit of a spec, on images that no edit has seen.

    Parameters
    ----------
    session
        The spec, with nothing on the stack.
    images
        The number of images.
    experiment
        Takes latents and the images that the unedited model draws of them, and makes the judge of
        an experiment whose perfect edit is known. Default: the rule, all pixels, and what changes
        where the context's key does not match are measured.
    """
    base = generator_of(session)
    spec = image_spec(session.loaded.spec)
    stream = LatentStream(SWEEPS, base.architecture.latent_size, spec.latents.sampler)
    latents = stream.items(range(images)).to(base.weight(spec.edits[-1].layer))
    unedited = render_clamped(base, latents)
    if experiment is None:
        return _RuleJudge(base, latents, unedited)
    judge_images = experiment(latents, unedited)
    return lambda edited, edit: judge_images(render_clamped(generator_of(edited), latents))


@dataclass(frozen=True)
class _RuleJudge:
    """A judge that knows no perfect edit.

    Attributes
    ----------
    base, latents, unedited
        The unedited model, latents, and its images of them.
    allowed
        The pixels that the last edit may change, by its layer; None where no key of its context is
        found. They follow from the model before the edit, which all points share.
    """

    base: Generator
    latents: Tensor
    unedited: Tensor
    allowed: dict[str, Tensor | None] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, session: ModelSession, edit: BuiltEdit) -> Estimates:
        """Measure the efficacy on the rule itself, and the change of the images."""
        unchanged = loss_of(edit.rule, self.base, self.base.weights)
        # A rule that holds before the edit has nothing to win.
        efficacy = 1 - edit.loss / unchanged if unchanged else 1.0
        images = render_clamped(generator_of(session), self.latents)
        # One by one, as a second batch of differences may not fit into memory.
        pairs = zip(images, self.unedited, strict=True)
        change = torch.stack([(after - before).abs().mean() for after, before in pairs])
        ratios = {"outside": Ratio.mean(change.cpu())}
        traces = self.find_traces(session, images)
        if traces is not None:
            ratios |= trace_ratios(traces)
        found = Estimates.of(ratios, start_bootstrap())
        return Estimates({"efficacy": efficacy, **found.numbers}, found.intervals)

    def find_traces(self, session: ModelSession, images: Tensor) -> Traces | None:
        """Find what the last edit changes where it should not; None where it has no key."""
        last = len(session.stack) - 1
        layer = session.loaded.spec.edits[last].layer
        before = generator_of(session.after(last)) if last else self.base
        if layer not in self.allowed:
            self.allowed[layer] = self._find_allowed(session, last, before)
        allowed = self.allowed[layer]
        if allowed is None:
            return None
        earlier = render_clamped(before, self.latents) if last else self.unedited
        return Traces.between(earlier, images, allowed)

    def _find_allowed(self, session: ModelSession, number: int, before: Generator) -> Tensor | None:
        try:
            match = find_match(session, number, before)
        except (NumericalError, SpecError):
            # A method that needs no keys builds edits whose context gives none.
            return None
        return match.find_allowed(before, self.latents)
