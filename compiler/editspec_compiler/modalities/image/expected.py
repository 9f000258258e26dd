"""Pictures that an edit asks for, and the places that checks look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_compiler.modalities.image.context import needed_context_keys, rank_units
from editspec_compiler.modalities.image.inputs import spec_mask
from editspec_compiler.modalities.image.paste import composite_image, make_wanted_map
from editspec_compiler.modalities.image.places import LayerMoment, Resolver
from editspec_compiler.modalities.image.schema import (
    Collateral,
    Copied,
    Efficacy,
    ImagePair,
    Place,
    Recognised,
    Scene,
    image_spec,
)
from editspec_compiler.problems import SpecPath
from editspec_compiler.references import LoadedSpec
from editspec_compiler.schema import Erase
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.core.model import Trace
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.generator import Generator


@dataclass(frozen=True)
class ExpectedOutput:
    """Picture that a rule asks for, of one image.

    Attributes
    ----------
    scene
        The image, and the place in it.
    before
        The picture as it is, [1, 3, image_size, image_size].
    wanted
        The picture with V* in its place: the rest of the model draws it from the value map into
        which the rule's value was put. Of a method that needs outputs, the composited picture.
    area
        How much of each pixel lies in the place, [image_size, image_size] float64.
    """

    scene: Place
    before: Tensor
    wanted: Tensor
    area: Tensor

    def draw(self, loaded: LoadedSpec, number: int, generator: Generator) -> Tensor:
        """Draw the same image with another generator, [1, 3, image_size, image_size]."""
        return _draw(Resolver(loaded, generator, number), self.scene)


def expected_outputs(
    loaded: LoadedSpec,
    number: int,
    generator: Generator,
    moment: LayerMoment,
    check: int | None = None,
    *,
    full: bool = False,
) -> Iterator[ExpectedOutput]:
    """Make the pictures that an edit asks for, at its targets or at a check's places.

    Parameters
    ----------
    loaded
        The checked spec.
    number
        The edit's number, from 0.
    generator
        The model as the edits before left it.
    moment
        Gives C of a layer of a model; only sources that erase units ask for it.
    check
        The number of an efficacy check, whose places get the value of the edit's first source.
    full
        Whether V* is asked for in full where a mask is brightest, however bright it is there.

    Raises
    ------
    SpecError
        As `resolve_rule` does.
    """
    resolver = Resolver(loaded, generator, number, moment)
    wanting = replace(resolver, full=full)
    sides = resolver.sides() if check is None else list(_check_sides(resolver, check))
    units: tuple[int, ...] = ()
    if resolver.edit.erases:
        units = rank_units(resolver, *needed_context_keys(resolver))
    for pair, path in sides:
        yield _expected_output(wanting, pair, path, units)


def _check_sides(resolver: Resolver, number: int) -> Iterator[tuple[ImagePair, SpecPath]]:
    """Pair the first source of an edit with each place of a check."""
    check = image_spec(resolver.loaded.spec).checks[number]
    assert isinstance(check, Efficacy)
    first, path = resolver.sides()[0]
    size = resolver.generator.layer(resolver.observed).value_size
    for index, places in enumerate(check.images or ()):
        # A problem with a place of the check is shown there, and not at the edit.
        where = replace(resolver, root=("checks", number, "images", index))
        where.area(places.mask, size, "mask")
        for entry, latent in enumerate(places.latents):
            where.vector(latent, "latents", entry)
            target = Place(latent=latent, mask=places.mask)
            yield ImagePair(source=first.source, target=target), path


@torch.no_grad()
def _expected_output(
    resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]
) -> ExpectedOutput:
    size = resolver.generator.architecture.image_size
    where = (*resolver.path, *path, "target", "mask")
    # At the resolution of the image, where pixels are compared, and not at that of the layer.
    area = spec_mask(resolver.loaded, pair.target.mask, where, size, size)
    wanted = make_wanted_map(resolver, pair, path, units)
    if OUTPUTS in method_of(resolver.edit.solver).needs:
        picture = composite_image(resolver, pair, path, wanted).value
    else:
        picture = _draw_value(resolver, wanted.value, wanted.trace)
    before = _draw(resolver, pair.target)
    return ExpectedOutput(pair.target, before, picture, torch.from_numpy(area))


def _draw_value(resolver: Resolver, value: Tensor, trace: Trace) -> Tensor:
    """Draw the picture of a value map, or of an output of the observed layer."""
    generator, layer, observed = resolver.generator, resolver.edit.layer, resolver.observed
    if resolver.edit.observe is None:
        return generator.forward_from(layer, value, trace)
    if observed != layer:
        output = generator.layer_output(layer, generator.layer_value(layer, trace))
        trace = generator.forward_between(layer, output, trace, observed)
    return generator.forward_from_output(observed, value, trace)


@torch.no_grad()
def _draw(resolver: Resolver, scene: Scene) -> Tensor:
    """Draw a scene, under its intervention where it has one."""
    generator, layer = resolver.generator, resolver.edit.layer
    trace = resolver.trace(scene)
    return generator.forward_from(layer, generator.layer_value(layer, trace), trace)


@torch.no_grad()
def find_check_images(
    loaded: LoadedSpec, check: int, generator: Generator
) -> list[tuple[Tensor, Tensor]]:
    """Find the images of a collateral check, and how much each of their pixels counts.

    The images are latents, [1, latent_size]. All that the mask leaves out counts, [image_size,
    image_size] float64 in 0..1. Raises `SpecError` for a latent of another length.
    """
    found, given = [], image_spec(loaded.spec).checks[check]
    assert isinstance(given, Collateral)
    size = generator.architecture.image_size
    for index, images in enumerate(given.images):
        resolver = Resolver(loaded, generator, 0, root=("checks", check, "images", index))
        counts = torch.ones(size, size, dtype=torch.float64)
        if images.mask is not None:
            counts = 1 - resolver.area(images.mask, size, "mask")
        for entry, latent in enumerate(images.latents):
            found.append((resolver.vector(latent, "latents", entry), counts))
    return found


def find_check_latents(loaded: LoadedSpec, check: int, generator: Generator) -> list[Tensor]:
    """Find the images of a check of recognised pictures, as latents [1, latent_size].

    Raises `SpecError` for a latent of another length.
    """
    found, given = [], image_spec(loaded.spec).checks[check]
    assert isinstance(given, Recognised)
    for index, pictures in enumerate(given.images):
        resolver = Resolver(loaded, generator, 0, root=("checks", check, "images", index))
        for entry, latent in enumerate(pictures.latents):
            found.append(resolver.vector(latent, "latents", entry))
    return found


@dataclass(frozen=True)
class SourceValue:
    """Value that a rule writes into its layer, by itself.

    Attributes
    ----------
    latent
        The image that it was taken from, [1, latent_size].
    trace
        All that reaches the edited layer there.
    value
        The value map of the edited layer with zeros outside of the mask, [1, out_features,
        value_size, value_size].
    """

    latent: Tensor
    trace: Trace
    value: Tensor


@torch.no_grad()
def find_source_values(
    loaded: LoadedSpec, number: int, generator: Generator, moment: LayerMoment
) -> list[SourceValue]:
    """Find the value of every pair of edit `number`, in the place it was taken from.

    The parameters and errors are those of `resolve_rule`.
    """
    resolver = Resolver(loaded, generator, number, moment)
    units = rank_units(resolver, *needed_context_keys(resolver))
    return [_source_value(resolver, pair, path, units) for pair, path in resolver.sides()]


def _source_value(
    resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]
) -> SourceValue:
    generator, layer = resolver.generator, resolver.edit.layer
    scene: Copied | Place = pair.target
    side = "target"
    if isinstance(pair.source, Copied):
        scene, side = pair.source, "source"
    trace = resolver.trace(scene, *path, side)
    key = trace.key.clone()
    if isinstance(pair.source, Erase):
        key[:, list(units)] = 0
    value = generator.function(layer)(key, generator.weight(layer), trace.arguments)
    mask, masked = scene.mask, side
    if mask is None:
        mask, masked = pair.target.mask, "target"
    area = resolver.area(mask, generator.layer(layer).value_size, *path, masked, "mask").to(value)
    return SourceValue(resolver.latent(scene, *path, side), trace, area * value)
