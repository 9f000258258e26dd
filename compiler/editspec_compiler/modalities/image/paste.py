"""Copy, paste and erase on maps: the wanted value of a pair, before it is cropped.

It works as the paper's interface does (section 4): the values under the source's mask are pasted
into the target's value map, centred on the target's mask. The rectangle that they cover is the
target K* -> V*. An erased value (section 5.2) is the layer's output at the target where some units
of its key are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_compiler.modalities.image.places import Resolver, counted, lay_on
from editspec_compiler.modalities.image.schema import Copied, ImagePair, list_copies
from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import Erase
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.core.model import Trace
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.maps import Box

IDLE = 1e-5
"""The largest change of a map, as a share of its largest value, that asks for nothing."""


@dataclass(frozen=True)
class WantedMap:
    """Wanted value map: one K* -> V* before it is cropped.

    Attributes
    ----------
    latent
        The target's latent, [1, latent_size].
    trace
        All that reaches the edited layer there.
    value
        The wanted value map of the edited or the observed layer, [1, channels, size, size].
    covered
        The part of that map that the rule is about.
    asked
        How much of V* is asked for there, 0 to 1: the mean over the positions that count.
    idle
        Whether it is what the target shows already, so that no change is asked for.
    """

    latent: Tensor
    trace: Trace
    value: Tensor
    covered: Box
    asked: float = 1.0
    idle: bool = False


@dataclass(frozen=True)
class Side:
    """One K* -> V* of a rule.

    Attributes
    ----------
    region
        Its part of the key map; of a method that needs outputs, of the image.
    key, value
        K* and V*, each a batch of one.
    arguments
        The arguments of the layer's function there.
    asked
        How much of V* is asked for, 0 to 1.
    idle
        Whether V* is what the target shows already.
    """

    region: Box
    key: Tensor
    value: Tensor
    arguments: dict[str, Tensor]
    asked: float = 1.0
    idle: bool = False


def make_sides(
    resolver: Resolver, pairs: Sequence[tuple[ImagePair, SpecPath]], units: tuple[int, ...]
) -> list[Side]:
    """Resolve the pairs of an edit to K* -> V*, all of one size.

    Parameters
    ----------
    resolver
        The edit and the model.
    pairs
        The pairs, whose sources are chosen, and their paths below the edit.
    units
        The units that an erased value does without.
    """
    # Each from its own image alone: another batch would give other bits.
    wanted = [make_wanted_map(resolver, pair, path, units) for pair, path in pairs]
    if OUTPUTS in method_of(resolver.edit.solver).needs:
        given = zip(pairs, wanted, strict=True)
        return [composite_image(resolver, pair, path, each) for (pair, path), each in given]
    if resolver.edit.observe is not None:
        return [_whole_map(resolver, each) for each in wanted]
    layer = resolver.generator.layer(resolver.edit.layer)
    # Where the layer samples up, several values have one key: regions are of whole keys.
    regions = _of_one_size(
        [each.covered.scale_down(layer.scale) for each in wanted], layer.key_size
    )
    return [_crop(resolver, *each) for each in zip(wanted, regions, strict=True)]


def make_wanted_map(
    resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]
) -> WantedMap:
    """Make the value map that a pair asks for.

    `units` are those that an erased value does without.
    """
    if isinstance(pair.source, Erase):
        return _erase(resolver, pair, path, units)
    return _copy(resolver, pair, path)


def _copy(resolver: Resolver, pair: ImagePair, path: SpecPath) -> WantedMap:
    """Paste the sources' values into the target's value map."""
    size = resolver.generator.layer(resolver.observed).value_size
    latent = resolver.latent(pair.target, *path, "target")
    trace = resolver.trace(pair.target, *path, "target")

    def find_values(copied: Copied, *where: str | int) -> Tensor:
        return resolver.value(resolver.trace(copied, *where))

    own = resolver.value(trace)
    pasted = _paste_copies(resolver, pair, path, own, size, find_values)
    asked, idle = _asked(resolver, pasted.alpha), _is_idle(pasted.value, own)
    return WantedMap(latent, trace, pasted.value, pasted.covered, asked, idle)


def _is_idle(wanted: Tensor, own: Tensor) -> bool:
    """Return whether a wanted map is the target's own, but for rounding."""
    return bool((wanted - own).abs().max() <= IDLE * own.abs().max())


def _copies(pair: ImagePair) -> list[tuple[Copied, SpecPath]]:
    """List what a pair copies. Of lists of images, those that are copied are chosen before."""
    found = []
    for copy, where in list_copies(pair.source):
        assert isinstance(copy, Copied)
        found.append((copy, where))
    return found


def _erase(
    resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]
) -> WantedMap:
    """Make the target's value map as if the key had no `units` inside of the mask."""
    size = resolver.generator.layer(resolver.observed).value_size
    latent = resolver.latent(pair.target, *path, "target")
    trace = resolver.trace(pair.target, *path, "target")
    key = trace.key.clone()
    key[:, list(units)] = 0
    erased = resolver.value(trace, key)
    area = lay_on(erased, resolver.paste_area(pair.target.mask, size, *path, "target", "mask"))
    # The authors' code erases on the whole map, and asks for all of it.
    if compatibility_of(resolver.loaded.spec.compatibility).erase_everywhere:
        return WantedMap(latent, trace, erased, Box(0, 0, size, size))
    own = resolver.value(trace)
    value = torch.lerp(own, erased, area.to(erased))
    asked, idle = _asked(resolver, area), _is_idle(value, own)
    return WantedMap(latent, trace, value, resolver.enclose(area), asked, idle)


@dataclass(frozen=True)
class _Pasted:
    """Map into which values were pasted.

    Attributes
    ----------
    value
        The map, [1, channels, height, size].
    covered
        The box of all places that were pasted to.
    alpha
        How much of each position was replaced, [height, size] float64.
    """

    value: Tensor
    covered: Box
    alpha: Tensor


def _paste_copies(
    resolver: Resolver,
    pair: ImagePair,
    path: SpecPath,
    target: Tensor,
    size: int,
    find_values: Callable[..., Tensor],
) -> _Pasted:
    """Paste all that a pair copies into the target's map, one after the other.

    `find_values` takes a copy and its path below the edit, and gives the map that is copied from.
    """
    area = lay_on(target, resolver.paste_area(pair.target.mask, size, *path, "target", "mask"))
    pasted: _Pasted | None = None
    for copied, below in _copies(pair):
        where = (*path, *below)
        onto = target if pasted is None else pasted.value
        last = _paste(resolver, find_values(copied, *where), onto, copied, area, where)
        pasted = last if pasted is None else _join(pasted, last)
    assert pasted is not None
    return pasted


def _join(before: _Pasted, last: _Pasted) -> _Pasted:
    """Join what was pasted before with what was pasted over it."""
    alpha = 1 - (1 - before.alpha) * (1 - last.alpha)
    return _Pasted(last.value, before.covered.join(last.covered), alpha)


def _paste(
    resolver: Resolver,
    source: Tensor,
    target: Tensor,
    copied_from: Copied,
    target_area: Tensor,
    path: SpecPath,
) -> _Pasted:
    """Paste values of a map [1, c, height, size] into another.

    What lies under the source's mask goes to the middle of the target's mask, or as far from there
    as the source's shift says. Without a mask of the source, what lies under the target's mask
    comes from the same place.

    Parameters
    ----------
    resolver
        The edit and the model.
    source, target
        The maps.
    copied_from
        The copy.
    target_area
        How much of each position lies in the target's mask, [height, size].
    path
        The path of the copy below the edit.
    """
    if copied_from.mask is None:
        value = torch.lerp(target, source, target_area.to(target))
        return _Pasted(value, resolver.enclose(target_area), target_area)
    size = target_area.shape[-1]
    source_area = lay_on(target, resolver.paste_area(copied_from.mask, size, *path, "mask"))
    copied = resolver.enclose(source_area)
    alpha = source_area[copied.rows(), copied.columns()]
    clip = source[:, :, copied.rows(), copied.columns()]
    shift = _positions(copied_from, size / resolver.generator.architecture.image_size)
    pasted = _centre(copied, resolver.enclose(target_area), size, shift)
    value, replaced = target.clone(), torch.zeros_like(source_area)
    replaced[pasted.rows(), pasted.columns()] = alpha
    alpha = alpha.to(target)
    # As the paper's interface pastes: soft edges of the mask blend.
    under = value[:, :, pasted.rows(), pasted.columns()]
    value[:, :, pasted.rows(), pasted.columns()] = (1 - alpha) * under + alpha * clip
    return _Pasted(value, pasted, replaced)


def _positions(copied: Copied, scale: float) -> tuple[int, int]:
    """Return how many positions a copy goes to the right and down."""
    right, down = copied.shift or (0, 0)
    return math.floor(right * scale + 0.5), math.floor(down * scale + 0.5)


def _asked(resolver: Resolver, alpha: Tensor) -> float:
    """Compute the mean of alpha over the positions that count for its bounding box."""
    share = compatibility_of(resolver.loaded.spec.compatibility).box_share
    return float(alpha[counted(alpha, share)].mean())


def _centre(copied: Box, target: Box, size: int, shift: tuple[int, int] = (0, 0)) -> Box:
    """Centre a box of the size of `copied` on `target`, shift it, and move it inside of the map."""
    height, width = copied.bottom - copied.top, copied.right - copied.left
    right, down = shift
    # Whole positions: half of an odd size is rounded down.
    top = min(max((target.top + target.bottom) // 2 - height // 2 + down, 0), size - height)
    left = min(max((target.left + target.right) // 2 - width // 2 + right, 0), size - width)
    return Box(top, left, top + height, left + width)


def _of_one_size(regions: list[Box], size: int) -> list[Box]:
    """Grow boxes to the size of the largest, inside a map of `size` positions an axis.

    The sides of a rule are solved as one batch.
    """
    height = max(region.bottom - region.top for region in regions)
    width = max(region.right - region.left for region in regions)
    largest = Box(0, 0, height, width)
    return [_centre(largest, region, size) for region in regions]


def _whole_map(resolver: Resolver, wanted: WantedMap) -> Side:
    """Make the side of a rule whose V* is of a later layer.

    What is pasted there has its causes all over the map: the region is all of it.
    """
    generator, layer = resolver.generator, resolver.edit.layer
    size = generator.layer(layer).key_size
    whole = Box(0, 0, size, size)
    key, arguments = generator.crop(layer, wanted.trace, whole)
    arguments |= generator.carried_tensors(wanted.trace)
    return Side(whole, key, wanted.value, arguments, wanted.asked, wanted.idle)


def _crop(resolver: Resolver, wanted: WantedMap, region: Box) -> Side:
    """Crop a rule to a region of the key map, with K* (haloed) and V* there.

    Where the region is larger than what a paste covers, V* is the target's own value.
    """
    generator, layer = resolver.generator, resolver.edit.layer
    covered = region.scale_up(generator.layer(layer).scale)
    key, arguments = generator.crop(layer, wanted.trace, region)
    value = wanted.value[:, :, covered.rows(), covered.columns()]
    return Side(region, key, value, arguments, wanted.asked, wanted.idle)


def composite_image(resolver: Resolver, pair: ImagePair, path: SpecPath, wanted: WantedMap) -> Side:
    """Composite the image x* of Eqn. 3, which stands in place of a value.

    What is copied is composited from the pixels of the two images. What is erased has pixels only
    behind the layer. K* is the latent [1, latent_size], V* is x* [1, 3, size, size], and the
    argument ``area`` [1, 1, size, size] is 1 in the region.
    """
    generator = resolver.generator
    size = generator.architecture.image_size
    if isinstance(pair.source, Erase):
        image = resolver.draw_value(wanted.value, wanted.trace)
        covered = wanted.covered.scale_up(size // generator.layer(resolver.observed).value_size)
    else:

        def find_pixels(copied: Copied, *where: str | int) -> Tensor:
            return generator.images(resolver.latent(copied, *where))

        target = generator.images(resolver.latent(pair.target, *path, "target"))
        pasted = _paste_copies(resolver, pair, path, target, size, find_pixels)
        image, covered = pasted.value, pasted.covered
    area = torch.zeros_like(image[:, :1])
    area[:, :, covered.rows(), covered.columns()] = 1
    return Side(covered, wanted.latent, image, {"area": area}, wanted.asked, wanted.idle)
