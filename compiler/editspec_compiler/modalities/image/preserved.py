"""Keys that an edit must not touch: its preserved places, and what surrounds its targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_compiler.modalities.image.paste import Side
from editspec_compiler.modalities.image.places import Resolver
from editspec_compiler.modalities.image.schema import Mask, Place
from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import FULL
from editspec_runtime.core.method import LEARNED, PRESERVE, WHOLE
from editspec_runtime.core.model import Trace
from editspec_runtime.core.rule import PreservedKeys
from editspec_runtime.methods.registry import method_of

SURROUNDINGS = 0.25
"""The share of what surrounds the targets; that of the preserved places is the rest."""


@dataclass(frozen=True)
class _Kept:
    """One image, and how much each of its positions counts.

    Attributes
    ----------
    trace
        All that reaches the edited layer.
    key_area, value_area
        The weight of each position of the key map and of the value map, float64.
    """

    trace: Trace
    key_area: Tensor
    value_area: Tensor


def find_preserved(resolver: Resolver, sides: list[Side]) -> PreservedKeys | None:
    """Find the keys that an edit must not touch; None where nothing says that there are any.

    Where all taps of the layer count, what surrounds the targets is preserved in any case.

    Parameters
    ----------
    resolver
        The edit and the model.
    sides
        Its resolved pairs, whose regions are what changes.
    """
    edit = resolver.edit
    if not resolver.takes(PRESERVE):
        return None
    named = [_keep(preserved) for preserved in preserved_scenes(resolver)]
    takes = method_of(edit.solver).takes
    learned = edit.directions == "learned" and LEARNED in takes
    if not named and not learned and not (edit.rank == FULL and WHOLE in takes):
        return None
    groups = [(1 - SURROUNDINGS, named), (SURROUNDINGS, _surroundings(resolver, sides))]
    traces: list[Trace] = []
    key_weights: list[Tensor] = []
    value_weights: list[Tensor] = []
    for share, group in groups:
        key_total = sum(float(kept.key_area.sum()) for kept in group)
        value_total = sum(float(kept.value_area.sum()) for kept in group)
        if not value_total or not key_total:
            continue
        for kept in group:
            traces.append(kept.trace)
            key_weights.append(share * kept.key_area.flatten() / key_total)
            value_weights.append(share * kept.value_area.flatten() / value_total)
    if not traces:
        return None
    precision = getattr(torch, resolver.loaded.spec.precision)
    joined = {}
    for name in traces[0].arguments:
        joined[name] = torch.cat([trace.arguments[name] for trace in traces]).to(precision)
    keys = torch.cat([trace.key for trace in traces]).to(precision)
    return PreservedKeys(
        keys,
        joined,
        torch.stack(key_weights).to(keys),
        torch.stack(value_weights).to(keys),
    )


@dataclass(frozen=True)
class PreservedScene:
    """One image of a preserved place.

    Attributes
    ----------
    latent, trace
        The latent, [1, latent_size], and all that reaches the edited layer.
    mask
        Where in it; None for the whole image.
    weight
        How much each of its positions counts.
    resolver, path
        The resolver whose places problems are shown at, and the path of the place below it.
    """

    latent: Tensor
    trace: Trace
    mask: Mask | None
    weight: float
    resolver: Resolver
    path: SpecPath


def preserved_scenes(resolver: Resolver) -> Iterator[PreservedScene]:
    """Yield the images of ``preserve``, and with ``protect`` those of the edits before."""
    for index, place in enumerate(resolver.edit.preserve or ()):
        path: SpecPath = ("preserve", index)
        for scene, below in place.scenes():
            if below:
                latent = resolver.vector(scene.latent, *path, *below)
            else:
                latent = resolver.latent(scene, *path)
            trace = resolver.generator.trace(resolver.edit.layer, latent)
            yield PreservedScene(latent, trace, place.mask, place.weight, resolver, path)
    if resolver.edit.protect is None:
        return
    for number in range(resolver.number):
        # The places of an earlier edit, at the layer of this one.
        earlier, here = replace(resolver, number=number), replace(resolver, root=("edits", number))
        shown: list[tuple[Place, float, SpecPath]] = []
        for pair, where in earlier.sides():
            shown.append((pair.target, 1.0, (*where, "target")))
        for index, context in enumerate(earlier.edit.context or ()):
            shown.append((context, context.weight, ("context", index)))
        for each, weight, path in shown:
            latent, trace = here.latent(each, *path), here.trace(each, *path)
            yield PreservedScene(latent, trace, each.mask, weight, here, path)


def _keep(preserved: PreservedScene) -> _Kept:
    resolver, trace = preserved.resolver, preserved.trace
    layer = resolver.generator.layer(resolver.edit.layer)
    areas = []
    for size in (layer.key_size, layer.value_size):
        if preserved.mask is None:
            area = torch.ones(size, size, dtype=torch.float64)
        else:
            area = resolver.area(preserved.mask, size, *preserved.path, "mask")
        areas.append(preserved.weight * area)
    return _kept(trace, areas[0], areas[1])


def _surroundings(resolver: Resolver, sides: list[Side]) -> list[_Kept]:
    """What lies outside of the targets' regions in their own images."""
    if resolver.edit.observe is not None:
        return []
    layer = resolver.generator.layer(resolver.edit.layer)
    found = []
    for side, (pair, path) in zip(sides, resolver.sides(), strict=True):
        areas = []
        for size, region in (
            (layer.key_size, side.region),
            (layer.value_size, side.region.scale_up(layer.scale)),
        ):
            area = torch.ones(size, size, dtype=torch.float64)
            area[region.rows(), region.columns()] = 0
            areas.append(area)
        trace = resolver.trace(pair.target, *path, "target")
        found.append(_kept(trace, areas[0], areas[1]))
    return found


def _kept(trace: Trace, key_area: Tensor, value_area: Tensor) -> _Kept:
    """Lay areas on the maps of a trace, whose values have a single row where its keys have one."""
    if trace.key.shape[-2] == 1 < len(key_area):
        return _Kept(trace, key_area.mean(0), value_area.mean(0))
    return _Kept(trace, key_area, value_area)
