"""Questions about one image: which edit changed this place, and from which edit on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from editspec.engine.questions import AT_MOST, Asked, Bound, ModelOf, refuse_options
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.explore import add_selection
from editspec.modalities.image.pictures import (
    COLUMNS,
    arrange,
    enlarge,
    heat,
    stack_pictures,
    to_image,
)
from editspec.modalities.image.traces import find_match, find_traces, view_size
from editspec_compiler.modalities.image.expected import CheckImage, find_target_areas
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError
from editspec_runtime.maths.shapley import Attribution
from editspec_runtime.modalities.image.generator import Generator, require_generator
from editspec_runtime.modalities.image.rendering import render_clamped

TRACE, COLLATERAL = MEASURES = "trace", "collateral"
"""The measures of one image."""

CAPTION = 30
"""Pixels of the two lines of text below an image, which end where it ends."""


@dataclass(frozen=True)
class ImageQuestion:
    """One image of the stream of a spec, and a place in it.

    Attributes
    ----------
    number
        The number of the image.
    latent
        [1, latent_size].
    area
        How much of each pixel lies in the place, [size, size] float64, where size is that of
        `view_size`.
    """

    number: int
    latent: Tensor
    area: Tensor
    allowed: dict[int, Tensor] = field(default_factory=dict)

    unit = "in the mean"
    first = 0

    @property
    def name(self) -> str:
        """The image in words."""
        return f"latent {self.number}"

    def value(self, model: Model) -> Tensor:
        """Compute the pixels of the place as a model draws them, [3 * size * size] float64."""
        return (self._view(model) * self.area).flatten()

    def size_of(self, change: Tensor) -> float:
        """Compute the mean absolute change of a pixel of the place."""
        return float(change.abs().sum() / (3 * self.area.sum()))

    def _view(self, model: Model) -> Tensor:
        """Draw the image as it is looked at, [3, size, size] float64."""
        picture = render_clamped(require_generator(model), self.latent).double().cpu()
        return F.adaptive_avg_pool2d(picture, self.area.shape[-1])[0]

    def draw(self, model_of: ModelOf, names: Sequence[str], found: Attribution) -> Image.Image:
        """Draw the image before and after, without each edit, and where each has its part."""
        everyone = tuple(range(len(names)))
        before, after = self._view(model_of(())), self._view(model_of(everyone))
        shape = (-1, 3, *self.area.shape)
        whole, parts = found.whole.view(shape), found.parts.view(shape)
        strength = torch.cat([whole, parts]).abs().mean(1)
        # One scale for all, so that the parts can be compared.
        maps = heat(after.expand(len(strength), -1, -1, -1), strength / strength.max())
        tiles = [before, after, maps[0]]
        rows = [_caption(tiles, ("before", "after", "change"))]
        without, captions = [], []
        for number, (name, share) in enumerate(zip(names, found.shares.tolist(), strict=True)):
            left_out = tuple(each for each in everyone if each != number)
            without.append(self._view(model_of(left_out)))
            captions.append(f"{name}\n{share:.0%}")
        for begin in range(0, len(names), COLUMNS):
            these = slice(begin, begin + COLUMNS)
            rows.append(_caption(without[these], [f"without\n{name}" for name in names[these]]))
            rows.append(_caption(list(maps[1:][these]), captions[these]))
        return stack_pictures(rows)

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """Measure the change of the image by the first `count` edits, as checks do.

        ``collateral`` is the mean change of its pixels. ``trace`` is the largest mean change of a
        3 x 3 neighbourhood where none of these edits has its target and no context's key matches.
        """
        if not count:  # nothing has changed before the first edit
            return 0.0
        if measure == TRACE:
            return self._measure_trace(session, count)
        return self._measure_collateral(session, count)

    def bound_of(self, measure: str) -> Bound:
        """Both measures are at most something; raises `UsageError` for any other."""
        if measure not in MEASURES:
            raise UsageError(
                f"There is no measure {measure} of one image.",
                f"Give --measure {' or --measure '.join(MEASURES)}.",
            )
        return Bound(AT_MOST)

    @torch.no_grad()
    def _measure_collateral(self, session: BuildSession, count: int) -> float:
        before, after = generator_of(session.after(0)), generator_of(session.after(count))
        change = after.images(self.latent) - before.images(self.latent)
        return float(change.double().abs().mean())

    def _measure_trace(self, session: BuildSession, count: int) -> float:
        before, after = generator_of(session.after(0)), generator_of(session.after(count))
        for number in range(count):
            if number not in self.allowed:
                self.allowed[number] = self._find_allowed(session, number)
        allowed = torch.stack([self.allowed[number] for number in range(count)]).amax(0)
        return float(find_traces(before, after, self.latent, allowed).peaks)

    def _find_allowed(self, session: BuildSession, number: int) -> Tensor:
        """Find the pixels that an edit may change, [1, size, size]."""
        before = generator_of(session.after(number))
        size = self.area.shape[-1]
        match = find_match(session.after(number), number, before)
        allowed = match.find_allowed(before, self.latent).double()
        image = CheckImage(self.number, self.number, self.latent, torch.ones_like(self.area))
        target = find_target_areas(session.loaded, number, before, [image], size)
        return torch.maximum(allowed, target)


def ask_about_image(session: BuildSession, asked: Asked) -> ImageQuestion:
    """Make the question about the image ``latent``, and the place ``mask`` in it.

    A mask is a file, a data URL, or shapes as JSON or YAML; None is the whole image. Raises
    `SpecError` where it does not fit, `UsageError` where the family does not draw images.
    """
    generator = generator_of(session)
    refuse_options(asked, ("prompt", "text", "edit"), "images")
    number, mask = asked["latent"], asked.get("mask")
    if number is None:
        raise UsageError("--latent is missing.", "Give the number of an image, as in --latent 3.")
    size = view_size(generator.architecture)
    area = torch.ones(size, size, dtype=torch.float64)
    if mask is not None:
        layer = session.loaded.spec.edits[0].layer
        selected = add_selection(session.loaded, latent=number, mask=mask, layer=layer)
        target = image_spec(selected.spec).edits[0].sides[0].target
        resolver = Resolver(selected, generator, 0)
        area = resolver.area(target.mask, size, "target", "mask")
    return ImageQuestion(number, _find_latent(session, generator, number), area)


def _find_latent(session: BuildSession, generator: Generator, number: int) -> Tensor:
    return Resolver(session.loaded, generator, 0).vector(number, "target", "latent")


def _caption(images: Sequence[Tensor], captions: Sequence[str]) -> Image.Image:
    """Draw images [3, size, size] side by side, each with its text below."""
    tiles = []
    for image, caption in zip(images, captions, strict=True):
        picture = enlarge(to_image(image))
        tile = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
        tile.paste(picture, (0, 0))
        ImageDraw.Draw(tile).text((0, picture.height), caption, fill="black")
        tiles.append(tile)
    return arrange(tiles)
