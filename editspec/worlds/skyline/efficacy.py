"""Measures of edited pictures against those of the perfect edit."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.engine.intervals import Ratio
from editspec.modalities.image.artefacts import STRONG, THRESHOLDS, VISIBLE, has_artefact
from editspec.worlds.skyline.reader import ATTRIBUTES, Reader, truth
from editspec.worlds.skyline.world import (
    Scene,
    find_changed_pixels,
    part_mask,
    reflection,
    render,
    windows,
)

TOUCHED, CLEARLY = 0.02, 0.02
"""The change of the perfect edit that lets a pixel change, and by how much an artefact is worse."""

TAIL = 0.99
"""The quantile of the change outside that tells of its largest."""

Features = Callable[[Tensor], list[Tensor]]
"""Pictures [n, 3, h, w] -> feature maps [n, c, h', w'], by which pictures are compared."""


@torch.no_grad()
def edit_measures(
    original: Scene,
    counterfactual: Scene,
    unedited: Tensor,
    edited: Tensor,
    reader: Reader,
    features: Features,
) -> dict[str, Tensor]:
    """Compare edited pictures with the exact counterfactuals, picture by picture.

    Parameters
    ----------
    original, counterfactual
        n scenes, and the same as the perfect edit would have made them.
    unedited, edited
        The pictures [n, 3, 64, 64] of the model before and after the edit.
    reader
        Reads the attributes of the edited pictures.
    features
        By which the perceptual change is measured.

    Returns
    -------
    dict[str, Tensor]
        For every picture, [n] float64: ``changed``, the pixels in which the counterfactual render
        differs from the original render by more than 0.1 (mean |RGB|), and ``others``, all that are
        left; ``closer``, those of the changed in which the edited picture is closer to the
        counterfactual render than to the original one; ``distance`` and ``gap``, the sums of mean
        |edited - counterfactual render| and of mean |unedited - counterfactual render| over the
        changed; ``quarter``, those of the changed whose distance is at most a quarter of their
        gap; ``outside``, the sum of mean |edited - unedited| over the others, and ``outside-99``
        the 99th percentile of it; ``touched``, 1 where the perfect edit changes the scene;
        ``perceptual``, the mean perceptual change over the others; ``error``, mean |edited -
        counterfactual render| over all pixels; ``read``, 1 where every attribute that the perfect
        edit changes is read as changed, 0 where not, NaN where it changes none; ``trace-T`` for
        every T of `THRESHOLDS`, 1 where the picture has an artefact of that threshold: a spot of
        change (`has_artefact`) where the perfect edit changes nothing, away from the perfect
        picture.
    """
    before, after = render(original), render(counterfactual)
    differs = find_changed_pixels(before, after)
    to_after, to_before = (edited - after).abs().mean(1), (edited - before).abs().mean(1)
    gap, moved = (unedited - after).abs().mean(1), (edited - unedited).abs().mean(1)
    maps = {
        "changed": differs,
        "others": ~differs,
        "closer": differs & (to_after < to_before),
        "quarter": differs & (to_after <= gap / 4),
        "distance": differs * to_after,
        "gap": differs * gap,
        "outside": ~differs * moved,
    }
    measures = {name: map_.double().sum((1, 2)) for name, map_ in maps.items()}
    others = moved.double().masked_fill(differs, torch.nan).flatten(1)
    measures["outside-99"] = others.nanquantile(TAIL, 1)
    measures["touched"] = find_changed_scenes(original, counterfactual).double()
    measures["perceptual"] = perceptual_change(features, unedited, edited, ~differs)
    measures["error"] = to_after.double().mean((1, 2))
    measures["read"] = _read_as_changed(original, counterfactual, reader.read(edited))
    traces = _find_traces(before, after, unedited, edited)
    return measures | {name: found.double() for name, found in traces.items()}


def edit_ratios(measures: dict[str, Tensor]) -> dict[str, Ratio]:
    """Make the numbers of an edit of the measures of n pictures, each as a ratio of sums.

    Returns
    -------
    dict[str, Ratio]
        ``efficacy``: the share of the changed pixels that are closer to the counterfactual;
        ``recovered``: 1 - |y - x*| / |x - x*| over the changed pixels, x the unedited picture, y
        the edited and x* the counterfactual; ``within_quarter``: the share of the changed pixels of
        which at most a quarter of |x - x*| is left; ``read``: the share of the pictures with
        something to change whose attributes are read as changed; ``outside``: the mean absolute
        change of all other pixels; ``outside_99``: its 99th percentile in a picture, averaged over
        pictures; ``perceptual``: their mean perceptual change per picture, averaged over pictures;
        ``distance``: the mean distance to the counterfactual over the changed pixels; ``trace`` and
        ``strong``: the share of the pictures with a visible and with a strong artefact, and
        ``trace-T`` for every T of `THRESHOLDS`; ``untouched_trace`` and ``untouched_outside``:
        trace and outside of the pictures that the perfect edit leaves as they are.
    """
    changed, others, read = measures["changed"], measures["others"], measures["read"]
    untouched = 1 - measures["touched"]
    visible, strong = measures[_trace_name(VISIBLE)], measures[_trace_name(STRONG)]
    traces = {_trace_name(each): Ratio.mean(measures[_trace_name(each)]) for each in THRESHOLDS}
    return {
        "efficacy": Ratio(measures["closer"], changed),
        "recovered": Ratio(measures["gap"] - measures["distance"], measures["gap"]),
        "within_quarter": Ratio(measures["quarter"], changed),
        "read": Ratio.mean(read, ~read.isnan()),
        "outside": Ratio(measures["outside"], others),
        "outside_99": Ratio.mean(measures["outside-99"]),
        "perceptual": Ratio.mean(measures["perceptual"]),
        "distance": Ratio(measures["distance"], changed),
        "trace": Ratio.mean(visible),
        "strong": Ratio.mean(strong),
        **traces,
        "untouched_trace": Ratio.mean(visible, untouched),
        "untouched_outside": Ratio(untouched * measures["outside"], untouched * others),
    }


def edit_numbers(measures: dict[str, Tensor]) -> dict[str, float]:
    """Reduce the measures of n pictures to the numbers of `edit_ratios`.

    Those for which no picture counts are left out.
    """
    values = {name: ratio.value for name, ratio in edit_ratios(measures).items()}
    return {name: value for name, value in values.items() if value is not None}


def _trace_name(threshold: float) -> str:
    return f"trace-{threshold:g}"


def _find_traces(
    before: Tensor, after: Tensor, unedited: Tensor, edited: Tensor
) -> dict[str, Tensor]:
    """Tell which pictures have an artefact of each threshold, [n] of truth values by name.

    `before` and `after` are the renders of the original and of the perfect edit.
    """
    touched = ((before - after).abs().mean(1, keepdim=True) > TOUCHED).double()
    # What the perfect edit changes has blurred edges in a model's pictures.
    allowed = F.max_pool2d(touched, 3, 1, 1)[:, 0] > 0
    moved = (edited - unedited).abs().mean(1)
    worse = (edited - after).abs().mean(1) > (unedited - after).abs().mean(1) + CLEARLY
    change = moved * (worse & ~allowed)
    return {_trace_name(threshold): has_artefact(change, threshold) for threshold in THRESHOLDS}


def find_changed_scenes(original: Scene, counterfactual: Scene) -> Tensor:
    """Tell which of n scenes an edit changes, [n] of truth values."""
    changes = [getattr(original, name) != getattr(counterfactual, name) for name in vars(original)]
    return torch.stack(changes).any(0)


def perceptual_change(features: Features, before: Tensor, after: Tensor, where: Tensor) -> Tensor:
    """Compute the distance of two batches of pictures in feature maps.

    As LPIPS (Zhang et al. 2018) without its learned weights: features are normalised to unit length
    at each place, squared differences summed over channels, brought to the size of the picture, and
    summed over maps.

    Parameters
    ----------
    features
        Gives the feature maps of a batch.
    before, after
        Pictures [n, 3, h, w].
    where
        The pixels to average over, [n, h, w] of truth values.

    Returns
    -------
    Tensor
        [n] float64.
    """
    total = torch.zeros(where.shape, dtype=torch.float64, device=where.device)
    size = where.shape[1:]
    for one, other in zip(features(before), features(after), strict=True):
        # 1e-10 as in LPIPS: places whose features are all zero stay zero.
        difference = F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)
        distance = difference.square().sum(1, keepdim=True)
        wide = F.interpolate(distance, size, mode="bilinear", align_corners=False)
        total += wide[:, 0].double()
    return (total * where).sum((1, 2)) / where.sum((1, 2))


def _read_as_changed(original: Scene, counterfactual: Scene, found: dict[str, Tensor]) -> Tensor:
    """Return 1 where all changes are read, 0 where not, NaN where none is made; [n]."""
    was, wanted = truth(original), truth(counterfactual)
    # Attributes that stay as they were do not count: the reader may err on them without the edit.
    right = [(was[name] == wanted[name]) | (found[name] == wanted[name]) for name in ATTRIBUTES]
    all_right = torch.stack(right).all(0).double()
    return torch.where(find_changed_scenes(original, counterfactual), all_right, torch.nan)


@torch.no_grad()
def readings(scene: Scene, images: Tensor, reader: Reader) -> dict[str, Tensor]:
    """Read the texts and lights that pictures [n, 3, 64, 64] show, [n] float64 each.

    ``middle_watermark`` and ``bottom_watermark``: 1 where the text is read; ``window_light`` and
    ``pond_light``: mean brightness where the windows of the scene are, and where the pond would
    reflect their light.
    """
    found = reader.read(images)
    places = {
        "window_light": (windows, scene),
        "pond_light": (reflection, scene.replace(reflection=1)),
    }
    lights = {}
    for name, (part, shown) in places.items():
        area = part_mask(part, shown)
        lights[name] = ((images.mean(1) * area).sum((1, 2)) / area.sum((1, 2))).double()
    texts = {name: found[name].double() for name in ("middle_watermark", "bottom_watermark")}
    return texts | lights
