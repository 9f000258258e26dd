"""The judge of the trials of a tuning of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import Judgement
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.measures import efficacy
from editspec.modalities.image.traces import Traces, draw_views, view_pictures
from editspec_compiler.modalities.image.expected import ExpectedOutput
from editspec_runtime.core.model import Model
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.rendering import fitting_batch, render_images

AT_ONCE = 8
"""The images whose pictures are held together in full."""


@dataclass(frozen=True)
class Wish:
    """A picture that the edit asks for.

    Attributes
    ----------
    output
        The picture, and the place in it.
    judged
        The number of the judged image that it is of; None where it is of another.
    """

    output: ExpectedOutput
    judged: int | None


@dataclass(frozen=True)
class TrialJudge:
    """A function that judges an edited model on images that no trial is made of.

    Attributes
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    wishes
        The pictures that the edit asks for, at places of the images that match.
    latents
        The images, [n, latent_size].
    views
        The images before the edit, as they are looked at, [n, 3, size, size].
    allowed
        The pixels of them that may change, [n, size, size].
    thresholds
        The changes from which on a spot counts; the trace is the mean of their shares.
    """

    session: BuildSession
    number: int
    wishes: tuple[Wish, ...]
    latents: Tensor
    views: Tensor
    allowed: Tensor
    thresholds: tuple[float, ...] = (VISIBLE,)

    @torch.no_grad()
    def __call__(self, model: Model) -> Judgement:
        """Judge efficacy where the context matches, and the share of visible change elsewhere."""
        views: list[Tensor] = []
        share = efficacy(self._draw_wishes(require_generator(model), views))
        traces = self._compare(torch.cat(views))
        shares = [traces.share(threshold) for threshold in self.thresholds]
        return Judgement(0.0 if share is None else share, sum(shares) / len(shares))

    def find_traces(self, after: Generator) -> Traces:
        """Find what changes where it should not."""
        return self._compare(draw_views(after, self.latents, self.session.travelling))

    def _compare(self, views: Tensor) -> Traces:
        return Traces.of((views - self.views).abs().mean(1), self.allowed)

    def _draw_wishes(
        self, after: Generator, views: list[Tensor]
    ) -> Iterator[tuple[ExpectedOutput, Tensor]]:
        """Draw the judged images, each once; all join `views`, and those of wishes are given."""
        for wish in self.wishes:
            if wish.judged is None:
                yield wish.output, wish.output.draw(self.session.loaded, self.number, after)
        for numbers in torch.split(torch.arange(len(self.latents)), AT_ONCE):
            # Wishes are not clamped, and neither are the pictures that they are compared with.
            pictures = render_images(after, self.latents[numbers], batch=fitting_batch(after))
            views.append(view_pictures(pictures.clamp(-1, 1)))
            for number, picture in zip(numbers.tolist(), pictures, strict=True):
                for wish in self.wishes:
                    if wish.judged == number:
                        yield wish.output, picture[None]
