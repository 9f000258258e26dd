"""Copy, paste and erase on maps: the wanted value of a pair, before it is cropped.

It works as the paper's interface does (section 4): the values under the source's mask are pasted
into the target's value map, centred on the target's mask. The rectangle that they cover is the
target K* -> V*. An erased value (section 5.2) is the layer's output at the target where some units
of its key are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_compiler.modalities.image.places import Resolver, counted, lay_on
from editspec_compiler.modalities.image.schema import Copied, ImagePair, Place
from editspec_compiler.problems import SpecPath
from editspec_compiler.schema import Erase
from editspec_runtime.core.method import OUTPUTS
from editspec_runtime.core.model import Trace
from editspec_runtime.methods.registry import method_of
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.maps import Box


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
    """

    latent: Tensor
    trace: Trace
    value: Tensor
    covered: Box
    asked: float = 1.0


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
    """

    region: Box
    key: Tensor
    value: Tensor
    arguments: dict[str, Tensor]
    asked: float = 1.0


def make_side(resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]) -> Side:
    """Resolve a pair to K* -> V*. `path` is where it stands below the edit."""
    wanted = make_wanted_map(resolver, pair, path, units)
    if OUTPUTS in method_of(resolver.edit.solver).needs:
        return composite_image(resolver, pair, path, wanted)
    return _crop(resolver, wanted)


def make_wanted_map(
    resolver: Resolver, pair: ImagePair, path: SpecPath, units: tuple[int, ...]
) -> WantedMap:
    """Make the value map that a pair asks for.

    `units` are those that an erased value does without.
    """
    if isinstance(pair.source, Erase):
        return _erase(resolver, pair, path, units)
    return _copy(resolver, pair.source, pair.target, path)


def _copy(resolver: Resolver, source: Copied, target: Place, path: SpecPath) -> WantedMap:
    """Paste the source's values into the target's value map."""
    size = resolver.generator.layer(resolver.observed).value_size
    values = resolver.value(resolver.trace(source, *path, "source"))
    latent = resolver.latent(target, *path, "target")
    trace = resolver.trace(target, *path, "target")
    value, covered, alpha = _paste(
        resolver, values, resolver.value(trace), source, target, size, path
    )
    return WantedMap(latent, trace, value, covered, _asked(resolver, alpha))


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
    value = torch.lerp(resolver.value(trace), erased, area.to(erased))
    return WantedMap(latent, trace, value, resolver.enclose(area), _asked(resolver, area))


def _paste(
    resolver: Resolver,
    source: Tensor,
    target: Tensor,
    copied_from: Copied,
    pasted_to: Place,
    size: int,
    path: SpecPath,
) -> tuple[Tensor, Box, Tensor]:
    """Paste values of a map [1, c, size, size] into another.

    Returns the map, the place, and how much each position was replaced.

    What lies under the source's mask goes to the middle of the target's mask. Without a mask of the
    source, what lies under the target's mask comes from the same place.
    """
    target_area = lay_on(target, resolver.paste_area(pasted_to.mask, size, *path, "target", "mask"))
    if copied_from.mask is None:
        value = torch.lerp(target, source, target_area.to(target))
        return value, resolver.enclose(target_area), target_area
    source_area = lay_on(
        target, resolver.paste_area(copied_from.mask, size, *path, "source", "mask")
    )
    copied = resolver.enclose(source_area)
    alpha = source_area[copied.rows(), copied.columns()].to(target)
    clip = source[:, :, copied.rows(), copied.columns()]
    pasted = _centre(copied, resolver.enclose(target_area), size)
    value = target.clone()
    # As the paper's interface pastes: soft edges of the mask blend.
    under = value[:, :, pasted.rows(), pasted.columns()]
    value[:, :, pasted.rows(), pasted.columns()] = (1 - alpha) * under + alpha * clip
    return value, pasted, source_area


def _asked(resolver: Resolver, alpha: Tensor) -> float:
    """Compute the mean of alpha over the positions that count for its bounding box."""
    share = compatibility_of(resolver.loaded.spec.compatibility).box_share
    return float(alpha[counted(alpha, share)].mean())


def _centre(copied: Box, target: Box, size: int) -> Box:
    """Centre a box of the size of `copied` on `target`, and move it inside of the map."""
    height, width = copied.bottom - copied.top, copied.right - copied.left
    # Whole positions: half of an odd size is rounded down.
    top = min(max((target.top + target.bottom) // 2 - height // 2, 0), size - height)
    left = min(max((target.left + target.right) // 2 - width // 2, 0), size - width)
    return Box(top, left, top + height, left + width)


def _crop(resolver: Resolver, wanted: WantedMap) -> Side:
    """Crop the rule to the region that a paste covers, with K* (haloed) and V* there.

    Where a later layer is observed, what is pasted there has its causes all over the map: the
    region is all of it.
    """
    edit, generator, trace = resolver.edit, resolver.generator, wanted.trace
    shape = generator.layer(edit.layer)
    if edit.observe is not None:
        whole = Box(0, 0, shape.key_size, shape.key_size)
        key, arguments = generator.crop(edit.layer, trace, whole)
        arguments |= generator.carried_tensors(trace)
        return Side(whole, key, wanted.value, arguments, wanted.asked)
    # Where the layer samples up, several values have one key: the region is of whole keys.
    region = wanted.covered.scale_down(shape.scale)
    covered = region.scale_up(shape.scale)
    key, arguments = generator.crop(edit.layer, trace, region)
    value = wanted.value[:, :, covered.rows(), covered.columns()]
    return Side(region, key, value, arguments, wanted.asked)


def composite_image(resolver: Resolver, pair: ImagePair, path: SpecPath, wanted: WantedMap) -> Side:
    """Composite the image x* of Eqn. 3, which stands in place of a value.

    What is copied is composited from the pixels of the two images. What is erased has pixels only
    behind the layer. K* is the latent [1, latent_size], V* is x* [1, 3, size, size], and the
    argument ``area`` [1, 1, size, size] is 1 in the region.
    """
    edit, generator = resolver.edit, resolver.generator
    size = generator.architecture.image_size
    if isinstance(pair.source, Erase):
        image = generator.forward_from(edit.layer, wanted.value, wanted.trace)
        covered = wanted.covered.scale_up(size // generator.layer(edit.layer).value_size)
    else:
        source = generator.images(resolver.latent(pair.source, *path, "source"))
        target = generator.images(resolver.latent(pair.target, *path, "target"))
        image, covered, _ = _paste(resolver, source, target, pair.source, pair.target, size, path)
    area = torch.zeros_like(image[:, :1])
    area[:, :, covered.rows(), covered.columns()] = 1
    return Side(covered, wanted.latent, image, {"area": area}, wanted.asked)
