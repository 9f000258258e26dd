"""Keys that an edit must not touch: its preserved places, and what surrounds its targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editspec_compiler.modalities.image.paste import Side
from editspec_compiler.modalities.image.places import Resolver, join_arguments
from editspec_compiler.modalities.image.schema import Mask, Scene
from editspec_compiler.problems import SpecPath
from editspec_runtime.core.method import FULL, LEARNED, PRESERVE
from editspec_runtime.core.model import Trace
from editspec_runtime.core.rule import PreservedKeys

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

    def plus(self, other: _Kept) -> _Kept:
        """Add what other places of the same image count."""
        key_area = self.key_area + other.key_area
        return _Kept(self.trace, key_area, self.value_area + other.value_area)


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
    named = _keep_all(preserved_scenes(resolver))
    if not named and edit.directions != LEARNED and edit.rank != FULL:
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
    keys = torch.cat([trace.key for trace in traces]).to(precision)
    return PreservedKeys(
        keys,
        join_arguments([trace.arguments for trace in traces], precision),
        torch.stack(key_weights).to(keys),
        torch.stack(value_weights).to(keys),
    )


@dataclass(frozen=True)
class PreservedScene:
    """One image of a preserved place.

    Attributes
    ----------
    scene
        The image.
    mask
        Where in it; None for the whole image.
    weight
        How much each of its positions counts.
    resolver, path
        The resolver whose places problems are shown at, and the path of the place below it.
    """

    scene: Scene
    mask: Mask | None
    weight: float
    resolver: Resolver
    path: SpecPath

    @property
    def latent(self) -> Tensor:
        """Latent of the image, z [1, latent_size] or w."""
        return self.resolver.latent(self.scene, *self.path)

    def trace(self) -> Trace:
        """Trace the image up to the edited layer."""
        return self.resolver.trace(self.scene, *self.path)

    def output_area(self) -> Tensor:
        """How much each pixel of the picture counts, [1, 1, size, size] float64."""
        size = self.resolver.generator.architecture.image_size
        area = torch.ones(size, size, dtype=torch.float64)
        if self.mask is not None:
            area = self.resolver.area(self.mask, size, *self.path, "mask")
        return self.weight * area[None, None]


def preserved_scenes(resolver: Resolver) -> Iterator[PreservedScene]:
    """Yield the images of ``preserve``, and with ``protect`` those of the edits before."""
    for index, place in enumerate(resolver.edit.preserve or ()):
        scene = Scene(latent=place.latent)
        yield PreservedScene(scene, place.mask, place.weight, resolver, ("preserve", index))
    if resolver.edit.protect is None:
        return
    for number in range(resolver.number):
        # The places of an earlier edit, at the layer of this one.
        earlier, here = replace(resolver, number=number), replace(resolver, root=("edits", number))
        for pair, where in earlier.sides():
            target = pair.target
            yield PreservedScene(target, target.mask, 1.0, here, (*where, "target"))
        for index, each in enumerate(earlier.edit.context or ()):
            yield PreservedScene(each, each.mask, each.weight, here, ("context", index))


def _keep_all(preserved: Iterable[PreservedScene]) -> list[_Kept]:
    """Find what is kept of each image, once: what several places of it count is added up.

    Under an intervention, which an earlier edit may have, a latent gives another image.
    """
    kept: dict[tuple[bytes, str], _Kept] = {}
    for place in preserved:
        name = bytes_of(place.latent), repr(place.scene.intervene)
        before = kept.get(name)
        trace = place.trace() if before is None else before.trace
        found = _keep(place, trace)
        kept[name] = found if before is None else before.plus(found)
    return list(kept.values())


def bytes_of(latent: Tensor) -> bytes:
    """The bytes of a latent, by which images are told apart."""
    return latent.cpu().numpy().tobytes()


def _keep(preserved: PreservedScene, trace: Trace) -> _Kept:
    resolver = preserved.resolver
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
