"""Measures of edited pictures against those of the perfect edit."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.modalities.image.artefacts import has_artefact
from editspec.worlds.skyline.reader import ATTRIBUTES, Reader, truth
from editspec.worlds.skyline.world import (
    Scene,
    find_changed_pixels,
    part_mask,
    reflection,
    render,
    windows,
)

TRACES = (0.06, 0.1, 0.15, 0.2, 0.3)
"""Thresholds of artefacts: the mean absolute change over channels, on the scale of -1..1."""

TRACE, STRONG = 0.1, 0.2
"""The threshold of an artefact that is visible, and of one that is strong."""

TOUCHED, CLEARLY = 0.02, 0.02
"""The change of the perfect edit that lets a pixel change, and by how much an artefact is worse."""

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
        counterfactual render than to the original one; ``distance``, the sum of mean |edited -
        counterfactual render| over the changed; ``outside``, the sum of mean
        |edited - unedited| over the others; ``perceptual``, the mean perceptual change over the
        others; ``error``, mean |edited - counterfactual render| over all pixels; ``read``, 1 where
        every attribute that the perfect edit changes is read as changed, 0 where not, NaN where it
        changes none; ``trace-T`` for every T of `TRACES`, 1 where the picture has an artefact of
        that threshold: a spot of change (`has_artefact`) where the perfect edit changes nothing,
        away from the perfect picture.
    """
    before, after = render(original), render(counterfactual)
    differs = find_changed_pixels(before, after)
    to_after, to_before = (edited - after).abs().mean(1), (edited - before).abs().mean(1)
    maps = {
        "changed": differs,
        "others": ~differs,
        "closer": differs & (to_after < to_before),
        "distance": differs * to_after,
        "outside": ~differs * (edited - unedited).abs().mean(1),
    }
    measures = {name: map_.double().sum((1, 2)) for name, map_ in maps.items()}
    measures["perceptual"] = perceptual_change(features, unedited, edited, ~differs)
    measures["error"] = to_after.double().mean((1, 2))
    measures["read"] = _read_as_changed(original, counterfactual, reader.read(edited))
    traces = _find_traces(before, after, unedited, edited)
    return measures | {name: found.double() for name, found in traces.items()}


def edit_numbers(measures: dict[str, Tensor]) -> dict[str, float]:
    """Reduce the measures of n pictures to one number each.

    Returns
    -------
    dict[str, float]
        ``efficacy``: the share of the changed pixels that are closer to the counterfactual;
        ``read``: the share of the pictures with something to change whose attributes are read as
        changed; ``outside``: the mean absolute change of all other pixels; ``perceptual``: their
        mean perceptual change per picture, averaged over pictures; ``distance``: the mean distance
        to the counterfactual over the changed pixels; ``trace`` and ``strong``: the share of the
        pictures with a visible and with a strong artefact, and ``trace-T`` for every T of `TRACES`.
    """
    total = {name: values.sum().item() for name, values in measures.items()}
    read = measures["read"]
    traces = {
        _trace_name(threshold): measures[_trace_name(threshold)].mean().item()
        for threshold in TRACES
    }
    return {
        "efficacy": total["closer"] / total["changed"],
        "read": read[~read.isnan()].mean().item(),
        "outside": total["outside"] / total["others"],
        "perceptual": measures["perceptual"].mean().item(),
        "distance": total["distance"] / total["changed"],
        "trace": traces[_trace_name(TRACE)],
        "strong": traces[_trace_name(STRONG)],
        **traces,
    }


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
    return {_trace_name(threshold): has_artefact(change, threshold) for threshold in TRACES}


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
    total = torch.zeros(where.shape, dtype=torch.float64)
    size = where.shape[1:]
    for one, other in zip(features(before), features(after), strict=True):
        # 1e-10 as in LPIPS: places whose features are all zero stay zero.
        difference = F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)
        distance = difference.square().sum(1, keepdim=True)
        wide = F.interpolate(distance, size, mode="bilinear", align_corners=False)
        total += wide[:, 0].double().cpu()
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
