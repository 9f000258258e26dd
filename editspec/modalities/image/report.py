"""Pictures of a build for its report, as data URLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from editspec.engine.session import BuildSession
from editspec.modalities.image.artefacts import STRONG
from editspec.modalities.image.drawing import context_direction
from editspec.modalities.image.key_value import find_matches
from editspec.modalities.image.pictures import data_url, heat, to_image
from editspec.modalities.image.traces import find_unseen_traces
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.model import Model
from editspec_runtime.errors import NumericalError
from editspec_runtime.modalities.image.generator import require_generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS

SHOWN = 8
"""The number of images in a row."""

LARGEST = 192
"""The largest width and height of an image, in pixels."""


@dataclass(frozen=True)
class Strip:
    """One row of images: its label, and each image as a data URL."""

    label: str
    images: list[str]


@dataclass(frozen=True)
class Pictures:
    """Rows of images below each other, with one latent for each column.

    Attributes
    ----------
    latents
        The numbers of the latents in their stream, or other names of the columns.
    size
        The width and height of an image in the report, in pixels.
    strips
        The rows.
    """

    latents: list[int] | list[str]
    size: int
    strips: list[Strip]


@dataclass(frozen=True)
class TracePictures:
    """What an edit changes where its context's key does not match.

    Attributes
    ----------
    visible
        The share of the pictures with a visible spot of such change.
    low, high
        The ends of its interval of 95 %.
    count
        How many pictures were compared.
    worst
        Those that change most, coloured where they do.
    """

    visible: float
    low: float
    high: float
    count: int
    worst: Pictures


@dataclass(frozen=True)
class ReportPictures:
    """The pictures of a build session, of latents that no edit has seen.

    `UsageError` is raised where the model does not draw images.
    """

    session: BuildSession

    @cached_property
    def stream(self) -> LatentStream:
        """The latent stream of reports."""
        architecture = require_generator(self.session.current_model()).architecture
        sampler = image_spec(self.session.loaded.spec).latents.sampler
        return LatentStream(REPORTS, architecture.latent_size, sampler)

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the model and of its latents by their labels."""
        spec = image_spec(self.session.loaded.spec)
        architecture = require_generator(self.session.current_model()).architecture
        size, layers = architecture.image_size, len(architecture.layers)
        statistics = spec.statistics
        return {
            "Model": f"{spec.model.family}, {size} × {size} pixels, {layers} layers",
            "Latents": f"stream {spec.latents.seed} ({spec.latents.sampler})",
            "Second moments": f"{statistics.samples} images of stream {statistics.seed}",
        }

    @torch.no_grad()
    def compare(self, before: Model, after: Model) -> Pictures:
        """Draw the first images of the stream before and after edits."""
        first, second = require_generator(before), require_generator(after)
        numbers = list(range(SHOWN))
        latents = first.to_model(self.stream.items(numbers))
        rows = {"before": render_images(first, latents), "after": render_images(second, latents)}
        return arrange_rows(numbers, rows)

    @torch.no_grad()
    def find_matches(self, number: int, before: Model, after: Model) -> Pictures | None:
        """Draw the images in which the key of the context of edit `number` matches best.

        None where the edit has no key.
        """
        session, generator = self.session, require_generator(before)
        layer = session.loaded.spec.edits[number].layer
        try:
            direction = context_direction(session, number, generator)
        except (NumericalError, SpecError):
            # A method that needs no keys builds edits whose context gives none.
            return None
        images, light, numbers = find_matches(
            generator, layer, direction, self.stream, SHOWN, session.compatibility
        )
        latents = self.stream.items(numbers).to(direction)
        edited = render_images(require_generator(after), latents)
        return arrange_rows(
            numbers, {"before": images, "key": heat(images, light), "after": edited}
        )

    @torch.no_grad()
    def find_traces(self, number: int, before: Model, after: Model) -> TracePictures | None:
        """Find what edit `number` changes where it should not, as the check `trace` does.

        None where the edit has no key, or one that matches everywhere.
        """
        first, second = require_generator(before), require_generator(after)
        found = find_unseen_traces(self.session, number, first, second)
        if found is None:
            return None
        traces = found.traces
        numbers = traces.rank()[:SHOWN]
        shown = first.to_model(found.latents[numbers])
        images = render_images(first, shown)
        light = (traces.change[numbers] / STRONG).clamp(0, 1)
        rows = {
            "before": images.float().cpu(),
            "elsewhere": heat(images.float().cpu(), light),
            "after": render_images(second, shown),
        }
        visible, (low, high) = found.estimates.numbers["trace"], found.estimates.intervals["trace"]
        return TracePictures(visible, low, high, len(found.latents), arrange_rows(numbers, rows))


def arrange_rows(numbers: list[int] | list[str], rows: Mapping[str, Tensor]) -> Pictures:
    """Arrange rows of images [n, 3, height, width] in -1..1, by their labels."""
    strips = [Strip(label, _encode_images(images)) for label, images in rows.items()]
    sizes = [images.shape[-1] for images in rows.values()]
    return Pictures(numbers, min(LARGEST, *sizes), strips)


def _encode_images(images: Tensor) -> list[str]:
    """Encode images [n, 3, height, width] in -1..1 as small data URLs."""
    urls = []
    for image in images.float().cpu():
        picture = to_image(image)
        if picture.width > LARGEST:
            picture = picture.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        urls.append(data_url(picture))
    return urls
