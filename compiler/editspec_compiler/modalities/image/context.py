"""Context of an edit: keys of its places, and units that respond most to them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from editspec_compiler.layer_fit import unit_problem
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.places import Resolver, lay_on
from editspec_compiler.modalities.image.schema import ContextPlace, Place
from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import Erase
from editspec_runtime.codes import Code
from editspec_runtime.core.method import DIRECTIONS
from editspec_runtime.maths.parallel import map_parts, separate_models
from editspec_runtime.maths.ranking import energy_ranking
from editspec_runtime.maths.sampled_keys import numbers_per_item
from editspec_runtime.modalities.image.generator import Generator


@torch.no_grad()
def find_context_keys(
    loaded: LoadedSpec, number: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Find the keys of the context of edit `number`, and their weights.

    The keys are [m, in_features], the weights [m], whether the edit's method needs them or not.
    Raises `SpecError` where a mask vanishes at the edited layer.
    """
    return context_keys(Resolver(loaded, generator, number))


@torch.no_grad()
def select_keys(
    loaded: LoadedSpec, number: int, generator: Generator, place: Place, *path: str | int
) -> tuple[Tensor, Tensor]:
    """Find the keys under the mask of a place of edit `number`, and their weights.

    The keys are [m, in_features], the weights [m]. `path` is where the place stands below the edit.
    Raises `SpecError` where the mask vanishes at the edited layer.
    """
    return _place_keys(Resolver(loaded, generator, number), place, *path)


def needed_context_keys(resolver: Resolver) -> tuple[Tensor, Tensor]:
    """Find the keys of the context, [m, in_features], and their weights, [m].

    There are none for a method that takes no directions, unless a source ranks units.
    """
    if resolver.takes(DIRECTIONS) or resolver.edit.erases:
        return context_keys(resolver)
    layer = resolver.edit.layer
    nothing = resolver.generator.weight(layer).new_empty(0)
    return nothing.reshape(0, resolver.generator.layer(layer).in_features), nothing


def context_keys(resolver: Resolver) -> tuple[Tensor, Tensor]:
    """Find keys and weights of the context, or of the targets where there is none."""
    places: list[tuple[Place, SpecPath]] = []
    if resolver.edit.context is not None:
        for index, place in enumerate(resolver.edit.context):
            places.append((place, ("context", index)))
    else:
        for pair, path in resolver.sides():
            places.append((pair.target, (*path, "target")))
    numbers = numbers_per_item(resolver.generator, resolver.edit.layer)
    generators = separate_models(resolver.generator, numbers, len(places))
    finders = [partial(_find_place_keys, replace(resolver, generator=each)) for each in generators]
    found = list(map_parts(finders, places))
    keys, weights = zip(*found, strict=True)
    return torch.cat(keys), torch.cat(weights)


def _find_place_keys(resolver: Resolver, where: tuple[Place, SpecPath]) -> tuple[Tensor, Tensor]:
    place, path = where
    return _place_keys(resolver, place, *path)


def _place_keys(resolver: Resolver, place: Place, *path: str | int) -> tuple[Tensor, Tensor]:
    key = resolver.trace(place, *path).key[0]
    size = resolver.generator.layer(resolver.edit.layer).key_size
    area = lay_on(key, resolver.context_area(place, size, *path))
    weight = place.weight if isinstance(place, ContextPlace) else 1.0
    # A position that the mask covers in part counts in part.
    return key[:, area > 0].T, weight * area[area > 0].to(key)


def rank_units(resolver: Resolver, keys: Tensor, weights: Tensor) -> tuple[int, ...]:
    """Rank the units that an erased value does without (paper section 5.2).

    They are those that respond most to the context. Raises `SpecError` where the layer has fewer,
    or pairs erase different numbers of units.
    """
    if not resolver.edit.erases:
        return ()
    count = _count_units(resolver)
    moment = resolver.moment(resolver.generator, resolver.edit.layer)
    # On the CPU, so that the ranking is the same whatever the device is.
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
