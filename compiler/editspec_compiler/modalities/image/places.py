"""Places of a spec on a model: latents, areas of masks, and keys of a layer there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.inputs import spec_latent, spec_mask
from editspec_compiler.modalities.image.latents import is_of_styles
from editspec_compiler.modalities.image.modality import intervention_problem
from editspec_compiler.modalities.image.schema import (
    LATENT,
    ContextPlace,
    ImageEdit,
    ImagePair,
    Intervention,
    Latent,
    Mask,
    Place,
    Scene,
    image_spec,
)
from editspec_compiler.problems import SpecPath
from editspec_compiler.visit import visit
from editspec_runtime.codes import Code
from editspec_runtime.core.model import Trace
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.moment_cache import second_moment
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.modalities.image.maps import Box

LayerMoment = Callable[[Generator, str], Tensor]
"""Gives C of a layer of a model, [in_features, in_features] float64. Only erased values need it."""


def moment_of(loaded: LoadedSpec, cache: Cache) -> LayerMoment:
    """Return a function that takes C over a spec's sample from `cache` or computes it."""
    return partial(_compute_moment, loaded, cache)


def _compute_moment(loaded: LoadedSpec, cache: Cache, generator: Generator, layer: str) -> Tensor:
    spec = image_spec(loaded.spec)
    compatibility = compatibility_of(spec.compatibility)
    size = generator.architecture.latent_size
    stream = LatentStream(spec.statistics.seed, size, spec.latents.sampler)
    sample = LatentSample(stream, spec.statistics.samples)
    return second_moment(generator, layer, sample, compatibility, cache).matrix


def no_moment(generator: Generator, layer: str) -> Tensor:
    """Refuse a moment, for what needs none."""
    raise AssertionError("nothing here ranks units")


@dataclass(frozen=True)
class Resolver:
    """Edit on a model, which all parts of the edit share while they are resolved.

    Attributes
    ----------
    loaded
        The checked spec.
    generator
        The model as the edits before left it.
    number
        The edit's number, from 0.
    moment
        Gives C of a layer where a source erases units.
    root
        The place in the spec that paths are below, where it is not the edit: a place of a check.
    full
        Whether V* is asked for in full where the mask is brightest, however bright it is there.
    """

    loaded: LoadedSpec
    generator: Generator
    number: int
    moment: LayerMoment = no_moment
    root: SpecPath | None = None
    full: bool = False

    @property
    def edit(self) -> ImageEdit:
        """Edit that is resolved."""
        return image_spec(self.loaded.spec).edits[self.number]

    @property
    def path(self) -> SpecPath:
        """Place in the spec that paths are below."""
        return self.root or ("edits", self.number)

    @cached_property
    def by_styles(self) -> bool:
        """Whether a latent of the edit is w."""
        items = visit(type(self.edit), self.edit)
        return any(item.role == LATENT and is_of_styles(item.value) for item in items)

    @property
    def observed(self) -> str:
        """Layer at whose output values are compared."""
        return self.edit.observe or self.edit.layer

    def takes(self, field: str) -> bool:
        """Return whether the edit's method takes a field of the edit."""
        return field in method_of(self.edit.solver).takes

    def sides(self) -> list[tuple[ImagePair, SpecPath]]:
        """Return every pair of source and target, and its path below the edit."""
        if self.edit.pairs is None:
            return [(pair, ()) for pair in self.edit.sides]
        return [(pair, ("pairs", index)) for index, pair in enumerate(self.edit.pairs)]

    def trace(self, scene: Scene, *path: str | int) -> Trace:
        """Trace one image up to the edited layer.

        Raises `SpecError` where an intervention does not fit.
        """
        latent, change = self.latent(scene, *path), scene.intervene
        if change is None:
            return self.generator.trace(self.edit.layer, latent)
        return self._trace_changed(latent, change, *path, "intervene")

    def _trace_changed(self, latent: Tensor, change: Intervention, *path: str | int) -> Trace:
        """Trace an image where an earlier layer's units are set to a value."""
        generator, layer = self.generator, change.layer
        problem = intervention_problem(change, generator.architecture, self.edit.layer)
        if problem is not None:
            raise self.loaded.misfit((*self.path, *path), problem)
        # At the layer's output, which the next layer sees, and not at its value.
        trace = generator.trace(layer, latent)
        output = generator.layer_output(layer, generator.layer_value(layer, trace))
        size = generator.layer(layer).value_size
        area = self.area(change.mask, size, *path, "mask").to(output)
        output[:, change.units] = (1 - area) * output[:, change.units] + area * change.value
        return generator.forward_between(layer, output, trace, self.edit.layer)

    def picture(self, scene: Scene, *path: str | int) -> Tensor:
        """Draw one image, [1, 3, image_size, image_size], under its intervention if it has one.

        Raises as `trace`.
        """
        return self._draw(self.trace(scene, *path))

    def draw(self, latent: Tensor) -> Tensor:
        """Draw the image of a latent, [1, 3, image_size, image_size], as `picture` does."""
        return self._draw(self.generator.trace(self.edit.layer, latent))

    def _draw(self, trace: Trace) -> Tensor:
        generator, layer = self.generator, self.edit.layer
        return generator.forward_from(layer, generator.layer_value(layer, trace), trace)

    def draw_value(self, value: Tensor, trace: Trace) -> Tensor:
        """Draw the picture of a value map, or of an output of the observed layer, as `value`."""
        generator, layer, observed = self.generator, self.edit.layer, self.observed
        if self.edit.observe is None:
            return generator.forward_from(layer, value, trace)
        if observed != layer:
            output = generator.layer_output(layer, generator.layer_value(layer, trace))
            trace = generator.forward_between(layer, output, trace, observed)
        return generator.forward_from_output(observed, value, trace)

    def value(self, trace: Trace, key: Tensor | None = None) -> Tensor:
        """Compute the edited layer's value map, or the output of the observed layer.

        `key` replaces the layer's own key [1, in_features, height, width].
        """
        generator, layer = self.generator, self.edit.layer
        key = trace.key if key is None else key
        value = generator.function(layer)(key, generator.weight(layer), trace.arguments)
        if self.edit.observe is None:
            return value
        return generator.output_at(layer, value, trace, self.edit.observe)

    def latent(self, scene: Scene, *path: str | int) -> Tensor:
        """Return the latent of a scene, as `vector` does."""
        return self.vector(scene.latent, *path, "latent")

    def vector(self, given: Latent, *path: str | int) -> Tensor:
        """Return a latent of the language in the precision of the model.

        z [1, latent_size], or w of every layer [1, styles, style_size]: of an edit that names one
        of its latents by w, all are w, so that they fit into one batch.
        """
        latents = image_spec(self.loaded.spec).latents
        size = self.generator.architecture.latent_size
        if isinstance(given, int):
            latent = LatentStream(latents.seed, size, latents.sampler).items([given])
        else:
            architecture = self.generator.architecture
            numbers = spec_latent(self.loaded, given, (*self.path, *path), architecture)
            latent = torch.from_numpy(numbers)[None]
        latent = latent.to(self.generator.weight(self.edit.layer))
        if self.by_styles and latent.ndim == 2:
            return self.generator.styles(latent)
        return latent

    def area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        """Compute the area of a mask, [resolution, resolution] float64 in 0..1.

        Raises `SpecError` where nothing of it is left at this resolution.
        """
        area = self.mask_area(mask, resolution, *path)
        self._require_some(area, "of this mask", *path)
        return area

    def paste_area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        """Compute how much of V* each position gets, as `area` does."""
        area = self.area(mask, resolution, *path)
        return area / area.max() if self.full else area

    def enclose(self, area: Tensor) -> Box:
        """Return the smallest box that holds every position that counts for it."""
        share = compatibility_of(self.loaded.spec.compatibility).box_share
        return enclosing_box(area, share)

    def context_area(self, place: Place, resolution: int, *path: str | int) -> Tensor:
        """Compute the area of a place of the context: its mask without what it excludes.

        Returns and raises as `area`.
        """
        area = self.area(place.mask, resolution, *path, "mask")
        if isinstance(place, ContextPlace) and place.exclude is not None:
            area = area * (1 - self.mask_area(place.exclude, resolution, *path, "exclude"))
            self._require_some(area, "of the mask outside of what it excludes", *path, "exclude")
        return area

    def mask_area(self, mask: Mask, resolution: int, *path: str | int) -> Tensor:
        """Compute the area of a mask as `area` does, of which nothing may be left."""
        size = self.generator.architecture.image_size
        return torch.from_numpy(spec_mask(self.loaded, mask, (*self.path, *path), size, resolution))

    def _require_some(self, area: Tensor, what: str, *path: str | int) -> None:
        if bool((area > 0).any()):
            return
        layer, size = self.edit.layer, len(area)
        raise self.loaded.error(
            (*self.path, *path),
            f"nothing {what} is left at the resolution of {layer}, {size}x{size}",
            "paint a larger region, or edit a layer of higher resolution",
            Code.MASK_VANISHES,
        )


def join_arguments(
    arguments: Sequence[Mapping[str, Tensor]], precision: torch.dtype
) -> dict[str, Tensor]:
    """Join the arguments of several images to batches, by their names."""
    joined = {}
    for name in arguments[0]:
        joined[name] = torch.cat([each[name] for each in arguments]).to(precision)
    return joined


def lay_on(map_: Tensor, area: Tensor) -> Tensor:
    """Lay an area [size, size] on a map [..., height, size].

    On a map of a single row, it is the mean of each column, [1, size].
    """
    return area if map_.shape[-2] == len(area) else area.mean(0, keepdim=True)


def counted(area: Tensor, share: float) -> Tensor:
    """Return which positions have some area, and at least a share of the largest."""
    return (area > 0) & (area >= share * area.max())


def enclosing_box(area: Tensor, share: float) -> Box:
    """Return the smallest box that holds every position with `share` of the largest area."""
    rows, columns = torch.nonzero(counted(area, share), as_tuple=True)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
