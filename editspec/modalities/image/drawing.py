"""Helpers for a session whose model draws images: generator, latents, directions."""

from __future__ import annotations

from torch import Tensor

from editspec.engine.model_session import ModelSession
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.latents import LatentStream


def generator_of(session: ModelSession) -> Generator:
    """Return the generator as the edits of a session so far left it.

    Raises `UsageError` where the family does not draw images.
    """
    return require_generator(session.current_model())


def context_direction(session: ModelSession, number: int, generator: Generator) -> Tensor:
    """Compute C^-1 k, [in_channels], of the mean key k of an edit's context.

    Keys and C are those of `generator` as it is (paper section 3.4).
    """
    keys, weights = find_context_keys(session.loaded, number, generator)
    moment = session.moment(generator, session.loaded.spec.edits[number].layer)
    return mean_direction(moment, keys.cpu(), weights.cpu())[0].to(keys)


def statistics_stream(loaded: LoadedSpec, model: Generator) -> LatentStream:
    """Return the stream of the latents that statistics are taken over."""
    spec = image_spec(loaded.spec)
    return LatentStream(spec.statistics.seed, model.architecture.latent_size, spec.latents.sampler)
