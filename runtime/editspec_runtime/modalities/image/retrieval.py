"""Heat maps of the responses to a key, and boxes around their peaks."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.maths.retrieval import respond
from editspec_runtime.modalities.image.architecture import ImageLayer
from editspec_runtime.modalities.image.generator import keys_of_map
from editspec_runtime.modalities.image.maps import Box


def respond_on_map(key_map: Tensor, direction: Tensor) -> Tensor:
    """Compute how much each position of maps has of a direction [in_channels].

    [n, in_channels, height, width] -> [n, height, width].
    """
    responses = respond(keys_of_map(key_map).values, direction)
    return responses.view(len(key_map), *key_map.shape[2:])


def find_place(responses: Tensor, layer: ImageLayer) -> Box:
    """Find the box around the peak of a key map's responses, [positions].

    The box is that of `box_around_peak` on a square map of `ImageLayer.key_size`. On a map that is
    a single row it has the whole height, as the mean of a mask's column counts for a position.
    """
    place = box_around_peak(responses.view(layer.key_shape))
    if layer.row:
        return Box(0, place.left, layer.key_size, place.right)
    return place


def box_around_peak(responses: Tensor) -> Box:
    """The box of the positions connected to the peak that have at least half of it.

    `responses` are [height, width].
    """
    peak = responses.max()
    # Half of a peak that is not positive would be no less than the peak.
    threshold = peak / 2 if peak > 0 else peak
    inside = responses >= threshold
    region = responses == peak
    # The region grows by one ring of neighbours at a time, until nothing is added.
    while True:
        rows, columns = region.clone(), region.clone()
        rows[1:] |= region[:-1]
        rows[:-1] |= region[1:]
        columns[:, 1:] |= region[:, :-1]
        columns[:, :-1] |= region[:, 1:]
        grown = (rows | columns) & inside
        if torch.equal(grown, region):
            break
        region = grown
    within_rows, within_columns = torch.nonzero(region, as_tuple=True)
    top, left = int(within_rows.min()), int(within_columns.min())
    return Box(top, left, int(within_rows.max()) + 1, int(within_columns.max()) + 1)
