"""A build session whose model draws images: the generator, its latents, directions."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from editspec.engine.model_session import ModelSession
from editspec_compiler import LoadedSpec
from editspec_compiler.modalities.image.context import find_context_keys
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.modalities.image.architecture import require_images
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream


def generator_of(session: ModelSession) -> Generator:
    """The generator as the edits of a session so far left it.

    Raises `UsageError` where the family does not draw images.
    """
    model = session.current_model()
    require_images(model.architecture)
    return cast(Generator, model)


def context_direction(session: ModelSession, number: int, generator: Generator) -> Tensor:
    """C^-1 k of the mean key of an edit's context, [in_channels], on the model as it is."""
    keys, weights = find_context_keys(session.loaded, number, generator)
    moment = session.moment(generator, session.loaded.spec.edits[number].layer)
    return mean_direction(moment, keys.cpu(), weights.cpu())[0].to(keys)


def statistics_stream(loaded: LoadedSpec, model: Generator) -> LatentStream:
    """The latents that statistics are taken over."""
    spec = image_spec(loaded.spec)
    return LatentStream(spec.statistics.seed, model.architecture.latent_size, spec.latents.sampler)
