"""Pictures that an edit asks for, and the places that checks look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.context import needed_context_keys, rank_units
from editspec_compiler.modalities.image.inputs import spec_mask
from editspec_compiler.modalities.image.paste import composite_image, make_wanted_map
from editspec_compiler.modalities.image.places import LayerMoment, Resolver
from editspec_compiler.modalities.image.schema import (
    Collateral,
    Copied,
    Efficacy,
    ImagePair,
    Images,
    Latent,
    Pictures,
    Place,
    Recognised,
    Scene,
    VisibleTrace,
    image_spec,
    list_copies,
)
from editspec_compiler.modalities.image.sources import choose_sources
from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import Erase
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.core.model import Trace
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import CHECKS

UNSEEN = 64
"""The number of images of a check that names none."""


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
    for pair, path in choose_sources(resolver, sides).sides:
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
        picture = resolver.draw_value(wanted.value, wanted.trace)
    before = _draw(resolver, pair.target)
    return ExpectedOutput(pair.target, before, picture, torch.from_numpy(area))


@torch.no_grad()
def _draw(resolver: Resolver, scene: Scene) -> Tensor:
    """Draw a scene, under its intervention where it has one."""
    return resolver.picture(scene)


@dataclass(frozen=True)
class CheckImage:
    """Image that a check looks at.

    Attributes
    ----------
    given
        The image as the spec names it; None of a stream that specs do not name.
    name
        Its number in its stream, or where its latent stands below the check's images.
    latent
        [1, latent_size], or w of every layer [1, styles, style_size].
    counts
        How much each pixel counts, [size, size] float64 in 0..1.
    """

    given: Latent | None
    name: int | str
    latent: Tensor
    counts: Tensor


@torch.no_grad()
def find_check_images(
    loaded: LoadedSpec,
    check: int,
    generator: Generator,
    *,
    number: int = 0,
    size: int | None = None,
) -> list[CheckImage]:
    """Find the images of a check. All that their masks leave out counts.

    Parameters
    ----------
    loaded
        The checked spec.
    check
        The number of a check that names images other than places.
    generator
        The model that draws them.
    number
        The edit that the check is about, from 0.
    size
        The resolution of `CheckImage.counts`. Default: that of the model's images.

    Raises
    ------
    SpecError
        A latent is of another length, or nothing of a mask is left.
    """
    given = image_spec(loaded.spec).checks[check]
    assert isinstance(given, (Collateral, Recognised, VisibleTrace))
    size = size or generator.architecture.image_size
    if given.images is None:
        return _unseen_images(loaded, generator, size)
    found: list[CheckImage] = []
    listed: Sequence[Images | Pictures] = given.images
    for index, images in enumerate(listed):
        where = ("checks", check, "images", index)
        found += _named_images(Resolver(loaded, generator, number, root=where), images, index, size)
    return found


def _named_images(
    resolver: Resolver, images: Images | Pictures, index: int, size: int
) -> Iterator[CheckImage]:
    """Yield the images of one entry of a check's list."""
    counts = torch.ones(size, size, dtype=torch.float64)
    if isinstance(images, Images) and images.mask is not None:
        counts = 1 - resolver.area(images.mask, size, "mask")
    for entry, given in enumerate(images.latents):
        latent = resolver.vector(given, "latents", entry)
        name = given if isinstance(given, int) else f"images[{index}].latents[{entry}]"
        yield CheckImage(given, name, latent, counts)


def find_unseen_latents(loaded: LoadedSpec, generator: Generator) -> Tensor:
    """Return the latents of a check that names none, of a stream that shapes no edit.

    [`UNSEEN`, latent_size].
    """
    sampler = image_spec(loaded.spec).latents.sampler
    stream = LatentStream(CHECKS, generator.architecture.latent_size, sampler)
    return stream.items(range(UNSEEN))


def _unseen_images(loaded: LoadedSpec, generator: Generator, size: int) -> list[CheckImage]:
    """Return the images of a check that names none, of which all pixels count."""
    counts = torch.ones(size, size, dtype=torch.float64)
    latents = torch.split(find_unseen_latents(loaded, generator), 1)
    return [CheckImage(None, number, latent, counts) for number, latent in enumerate(latents)]


def find_target_areas(
    loaded: LoadedSpec, number: int, generator: Generator, images: Sequence[CheckImage], size: int
) -> Tensor:
    """Find where the targets of an edit lie in images.

    Parameters
    ----------
    loaded, number, generator
        The checked spec, the edit's number, from 0, and the model.
    images
        n images, most of which have no target.
    size
        The resolution of the areas.

    Returns
    -------
    Tensor
        How much of each pixel lies in a target, [n, size, size] float64 in 0..1.
    """
    areas = torch.zeros(len(images), size, size, dtype=torch.float64)
    resolver = Resolver(loaded, generator, number)
    for pair, path in resolver.sides():
        for index, each in enumerate(images):
            if each.given == pair.target.latent:
                area = resolver.area(pair.target.mask, size, *path, "target", "mask")
                areas[index] = torch.maximum(areas[index], area)
    return areas


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
    """Find the values of every pair of edit `number`, in the places they were taken from.

    The parameters and errors are those of `resolve_rule`.
    """
    resolver = Resolver(loaded, generator, number, moment)
    units = rank_units(resolver, *needed_context_keys(resolver))
    found = []
    for pair, path in choose_sources(resolver, resolver.sides()).sides:
        target = (pair.target, (*path, "target"))
        for scene, below in list_copies(pair.source):
            assert isinstance(scene, Copied)
            found.append(_source_value(resolver, (scene, (*path, *below)), target))
        if isinstance(pair.source, Erase):
            found.append(_source_value(resolver, target, target, units))
    return found


def _source_value(
    resolver: Resolver,
    source: tuple[Copied | Place, SpecPath],
    target: tuple[Place, SpecPath],
    erased: tuple[int, ...] = (),
) -> SourceValue:
    """Find the value at a place, whose path is below the edit, without some units of its key."""
    generator, layer = resolver.generator, resolver.edit.layer
    scene, path = source
    trace = resolver.trace(scene, *path)
    key = trace.key.clone()
    if erased:
        key[:, list(erased)] = 0
    value = generator.function(layer)(key, generator.weight(layer), trace.arguments)
    mask, masked = (scene.mask, path) if scene.mask is not None else (target[0].mask, target[1])
    area = resolver.area(mask, generator.layer(layer).value_size, *masked, "mask").to(value)
    return SourceValue(resolver.latent(scene, *path), trace, area * value)
