"""The judge of the trials of a tuning of images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.engine.trials import Judgement
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.measures import efficacy
from editspec.modalities.image.traces import Traces, find_traces
from editspec_compiler.modalities.image.expected import ExpectedOutput
from editspec_runtime.core.model import Model
from editspec_runtime.modalities.image.generator import Generator, require_generator


@dataclass(frozen=True)
class TrialJudge:
    """A function that judges an edited model on images that no trial is made of.

    Attributes
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    generator
        The model before the edit.
    wishes
        The pictures that the edit asks for, at places of the images that match.
    latents
        The images, [n, latent_size].
    allowed
        The pixels of them that may change, [n, size, size].
    """

    session: BuildSession
    number: int
    generator: Generator
    wishes: tuple[ExpectedOutput, ...]
    latents: Tensor
    allowed: Tensor

    def __call__(self, model: Model) -> Judgement:
        """Judge efficacy where the context matches, and the share of visible change elsewhere."""
        after, loaded = require_generator(model), self.session.loaded
        drawn = ((wish, wish.draw(loaded, self.number, after)) for wish in self.wishes)
        share = efficacy(drawn)
        return Judgement(0.0 if share is None else share, self.find_traces(after).share(VISIBLE))

    def find_traces(self, after: Generator) -> Traces:
        """Find what changes where it should not."""
        executor = self.session.travelling
        return find_traces(self.generator, after, self.latents, self.allowed, executor=executor)
