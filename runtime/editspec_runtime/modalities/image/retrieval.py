"""Where a key matches on a map: heat maps of responses, and boxes around their peaks."""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.maths.retrieval import respond
from editspec_runtime.modalities.image.architecture import ImageLayer
from editspec_runtime.modalities.image.generator import keys_of_map
from editspec_runtime.modalities.image.maps import Box


def respond_on_map(key_map: Tensor, direction: Tensor) -> Tensor:
    """How much each position of maps has of a direction [in_channels].

    [n, in_channels, height, width] -> [n, height, width].
    """
    responses = respond(keys_of_map(key_map).values, direction)
    return responses.view(len(key_map), *key_map.shape[2:])


def find_place(responses: Tensor, layer: ImageLayer) -> Box:
    """The positions around the peak of a key map's responses, [positions], as a box of the map.

    Those that are connected to the peak and have at least half as much. The box is that of a square
    map of `ImageLayer.key_size`: of a map that is a single row, the whole height, as the mean of a
    mask's column is what counts for a position.
    """
    place = box_around_peak(responses.view(layer.key_shape))
    if layer.row:
        return Box(0, place.left, layer.key_size, place.right)
    return place


def box_around_peak(responses: Tensor) -> Box:
    """The box of the positions connected to the highest of [height, width] that have half of it."""
    peak = responses.max()
    inside = responses >= (peak / 2 if peak > 0 else peak)
    region = responses == peak
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
