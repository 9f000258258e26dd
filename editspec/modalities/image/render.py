"""Pictures of the edits of a spec: images before and after, values, keys."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import context_direction, generator_of
from editspec.modalities.image.key_value import draw_alone, find_matches
from editspec.modalities.image.pictures import (
    arrange,
    before_and_after,
    enlarge,
    spotlight,
    stack_pictures,
    to_image,
)
from editspec.modalities.image.preview import render_stream
from editspec_compiler.modalities.image.expected import find_source_values
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import REPORTS


@on_device
def draw_edits(session: BuildSession, count: int, seed: int = REPORTS) -> Image.Image:
    """Draw `count` images of a latent stream before and after all edits.

    Nothing may have been built in the session yet.
    """
    before = generator_of(session)
    for number in range(len(session.loaded.spec.edits)):
        session.edit(number)
    sampler = image_spec(session.loaded.spec).latents.sampler
    first = render_stream(before, count, seed, sampler)
    if not session.loaded.spec.edits:
        return arrange([enlarge(to_image(image)) for image in first])
    return before_and_after(first, render_stream(generator_of(session), count, seed, sampler))


@on_device
def draw_values(session: BuildSession) -> Image.Image:
    """Draw the values of every edit, on the model that the edits before leave."""
    pictures = []
    for number, edit in enumerate(session.loaded.spec.edits):
        generator = generator_of(session)
        values = find_source_values(session.loaded, number, generator, session.moment)
        whole, alone = draw_alone(generator, edit.layer, values)
        pictures.append(_pair(whole, alone, ("image", "value")))
        _advance(session, number)
    return stack_pictures(pictures)


@on_device
def draw_keys(session: BuildSession, count: int, seed: int = REPORTS) -> Image.Image:
    """Draw the best matches of every edit's key, on the model before that edit.

    `count` images of a latent stream are drawn for each edit, lit where the key matches.
    """
    pictures = []
    sampler = image_spec(session.loaded.spec).latents.sampler
    for number, edit in enumerate(session.loaded.spec.edits):
        generator = generator_of(session)
        direction = context_direction(session, number, generator)
        stream = LatentStream(seed, generator.architecture.latent_size, sampler)
        images, light, _ = find_matches(
            generator, edit.layer, direction, stream, count, session.compatibility
        )
        pictures.append(_pair(images, spotlight(images, light), ("image", "match")))
        _advance(session, number)
    return stack_pictures(pictures)


def _pair(above: Tensor, below: Tensor, labels: tuple[str, str]) -> Image.Image:
    return before_and_after(above.float().cpu(), below.float().cpu(), labels)


def _advance(session: BuildSession, number: int) -> None:
    """Build edit `number`, unless it is the last: nothing is drawn behind that one."""
    if number < len(session.loaded.spec.edits) - 1:
        session.edit(number)
