"""Sources of an edit's pairs: of lists of images, those are chosen that are most alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import (
    Candidates,
    Copied,
    CopiedFromNearest,
    ImagePair,
    Latent,
    LatentFile,
    list_copies,
)
from editspec_compiler.problems import SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.maths.parallel import map_parts, separate_models
from editspec_runtime.maths.sampled_keys import numbers_per_item

Sides = list[tuple[ImagePair, SpecPath]]
"""Pairs of source and target, and their paths below the edit."""


@dataclass(frozen=True)
class ChosenSources:
    """Pairs whose sources are images.

    Attributes
    ----------
    sides
        The pairs, in which an image stands for each list that it was chosen of.
    nearest
        The images that were chosen, in the order of the pairs and of what each copies: their
        numbers in the stream, or their files, or where they stand in their list.
    """

    sides: Sides
    nearest: tuple[str | int, ...] = ()


@dataclass
class _Choice:
    """Choice of the image of a list that is most alike a target.

    Attributes
    ----------
    latents, path
        The list, and its path below the edit.
    picture
        The target's picture, [1, 3, size, size].
    weight
        How much each of its pixels counts, [size, size] float64.
    distance
        The least distance so far: the mean squared difference where pixels count.
    index
        The number of the image in the list.
    """

    latents: list[Latent]
    path: SpecPath
    picture: Tensor
    weight: Tensor
    distance: float = float("inf")
    index: int = 0

    @property
    def latent(self) -> Latent:
        """Latent of the image."""
        return self.latents[self.index]

    @property
    def name(self) -> str | int:
        """Image in words, or by its number in the stream."""
        if isinstance(self.latent, int):
            return self.latent
        if isinstance(self.latent, LatentFile):
            parts = (self.latent.file, self.latent.key, self.latent.index)
            return ":".join(str(part) for part in parts if part is not None)
        return f"latents[{self.index}]"

    def look_at(self, picture: Tensor, index: int) -> None:
        """Choose another image if it is more alike; of images alike the first stays chosen."""
        squares = (picture.double() - self.picture.double()).square().mean((0, 1))
        weight = self.weight.to(squares)
        distance = float((weight * squares).sum() / weight.sum())
        if distance < self.distance:
            self.distance, self.index = distance, index


@torch.no_grad()
def choose_sources(resolver: Resolver, sides: Sides) -> ChosenSources:
    """Choose the image for every source that is the nearest of a list.

    Two images are the more alike, the less the mean squared difference of their pictures is over
    the pixels outside of a mask. The pictures are those of the model as the edits before left it.

    Parameters
    ----------
    resolver
        The edit and the model.
    sides
        The pairs.

    Raises
    ------
    SpecError
        A mask leaves nothing that could be alike.
    """
    choices: dict[SpecPath, _Choice] = {}
    for number, (pair, path) in enumerate(sides):
        for copy, below in list_copies(pair.source):
            if isinstance(copy, CopiedFromNearest):
                where = (*path, *below, "nearest")
                choices[number, *below] = _begin(resolver, pair, copy.nearest, path, where)
    if not choices:
        return ChosenSources(sides)
    lists: dict[str, list[_Choice]] = {}
    for choice in choices.values():
        lists.setdefault(str(choice.latents), []).append(choice)
    for same in lists.values():
        # Each picture is drawn once, for all targets, and few are held at a time.
        for index, picture in enumerate(_draw(resolver, same[0])):
            for choice in same:
                choice.look_at(picture, index)
    chosen: Sides = []
    for number, (pair, path) in enumerate(sides):
        chosen.append((_put_choices(pair, number, choices), path))
    return ChosenSources(chosen, tuple(choice.name for choice in choices.values()))


def _begin(
    resolver: Resolver, pair: ImagePair, nearest: Candidates, path: SpecPath, where: SpecPath
) -> _Choice:
    size = resolver.generator.architecture.image_size
    mask, masked = nearest.other_than, (*where, "except")
    if mask is None:
        mask, masked = pair.target.mask, (*path, "target", "mask")
    weight = 1 - resolver.mask_area(mask, size, *masked)
    if not bool((weight > 0).any()):
        raise resolver.loaded.error(
            (*resolver.path, *masked),
            "this mask covers the whole image, and leaves nothing that could be alike",
            "write except: and a smaller mask",
            Code.MASK_UNFIT,
        )
    picture = resolver.picture(pair.target, *path, "target")
    return _Choice(nearest.latents, (*where, "latents"), picture, weight)


def _draw(resolver: Resolver, choice: _Choice) -> Iterator[Tensor]:
    """Draw the pictures of a list of images, in its order."""
    generator = resolver.generator
    numbers = numbers_per_item(generator, list(generator.architecture.layers)[-1])
    generators = separate_models(generator, numbers, len(choice.latents))
    drawers = [partial(_draw_one, replace(resolver, generator=each), choice) for each in generators]
    return map_parts(drawers, range(len(choice.latents)))


def _draw_one(resolver: Resolver, choice: _Choice, index: int) -> Tensor:
    latent = resolver.vector(choice.latents[index], *choice.path, index)
    return resolver.draw(latent)


def _put_choices(pair: ImagePair, number: int, choices: dict[SpecPath, _Choice]) -> ImagePair:
    """Put the images that were chosen into a pair."""
    copies = []
    for copy, below in list_copies(pair.source):
        choice = choices.get((number, *below))
        if choice is not None:
            copy = Copied(latent=choice.latent, mask=copy.mask, shift=copy.shift)
        copies.append(copy)
    if not copies:  # what is erased
        return pair
    source = copies if isinstance(pair.source, list) else copies[0]
    return pair.model_copy(update={"source": source})
