"""The context of an edit: the keys of its places, and the units that respond most to them."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_compiler.modalities.image.places import Resolver, lay_on
from editspec_compiler.modalities.image.schema import ContextPlace, Place
from editspec_compiler.problems import SpecPath
from editspec_compiler.references import LoadedSpec, unit_problem
from editspec_compiler.schema import Erase
from editspec_runtime.codes import Code
from editspec_runtime.core.method import DIRECTIONS
from editspec_runtime.maths.ranking import energy_ranking
from editspec_runtime.modalities.image.generator import Generator


@torch.no_grad()
def find_context_keys(
    loaded: LoadedSpec, number: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The keys of the context of edit `number`, [m, in_features], and their weights, [m].

    They are the same whether the edit's method needs them or not. Raises `SpecError` where a mask
    vanishes at the edited layer.
    """
    return context_keys(Resolver(loaded, generator, number))


@torch.no_grad()
def select_keys(
    loaded: LoadedSpec, number: int, generator: Generator, place: Place, *path: str | int
) -> tuple[Tensor, Tensor]:
    """The keys under the mask of a place of edit `number`, [m, in_features], and weights, [m].

    `path` is where the place stands below the edit. Raises `SpecError` where its mask vanishes at
    the edited layer.
    """
    return _place_keys(Resolver(loaded, generator, number), place, *path)


def needed_context_keys(resolver: Resolver) -> tuple[Tensor, Tensor]:
    """The keys of the context, [m, in_features], and their weights, [m].

    There are none for a method that takes no directions, unless a source ranks units.
    """
    if resolver.takes(DIRECTIONS) or resolver.edit.erases:
        return context_keys(resolver)
    layer = resolver.edit.layer
    nothing = resolver.generator.weight(layer).new_empty(0)
    return nothing.reshape(0, resolver.generator.layer(layer).in_features), nothing


def context_keys(resolver: Resolver) -> tuple[Tensor, Tensor]:
    """The keys of the context, or of the targets where there is none, and their weights."""
    places: list[tuple[Place, SpecPath]] = []
    if resolver.edit.context is not None:
        for index, place in enumerate(resolver.edit.context):
            places.append((place, ("context", index)))
    else:
        for pair, path in resolver.sides():
            places.append((pair.target, (*path, "target")))
    found = [_place_keys(resolver, place, *path) for place, path in places]
    keys, weights = zip(*found, strict=True)
    return torch.cat(keys), torch.cat(weights)


def _place_keys(resolver: Resolver, place: Place, *path: str | int) -> tuple[Tensor, Tensor]:
    key = resolver.trace(place, *path).key[0]
    size = resolver.generator.layer(resolver.edit.layer).key_size
    area = lay_on(key, resolver.context_area(place, size, *path))
    weight = place.weight if isinstance(place, ContextPlace) else 1.0
    return key[:, area > 0].T, weight * area[area > 0].to(key)


def rank_units(resolver: Resolver, keys: Tensor, weights: Tensor) -> tuple[int, ...]:
    """The units that an erased value does without: those that respond most to the context.

    Raises `SpecError` where the layer has fewer, or pairs erase different numbers of units.
    """
    if not resolver.edit.erases:
        return ()
    count = _count_units(resolver)
    moment = resolver.moment(resolver.generator, resolver.edit.layer)
    return tuple(energy_ranking(moment, keys.cpu(), weights.cpu())[:count])


def _count_units(resolver: Resolver) -> int:
    count, loaded = 0, resolver.loaded
    layer = resolver.generator.layer(resolver.edit.layer)
    for pair, path in resolver.sides():
        if not isinstance(pair.source, Erase):
            continue
        where = (*resolver.path, *path, "source", "erase")
        if problem := unit_problem(pair.source.erase, layer):
            raise loaded.misfit(where, problem)
        units = pair.source.erase.units
        if count not in (0, units):
            message = f"this pair erases {units} units, and another one {count}"
            hint = "give every pair of an edit the same number"
            raise loaded.error((*where, "units"), message, hint, Code.PAIRS_UNFIT)
        count = units
    return count
