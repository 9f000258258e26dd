"""Key maps in tiles of rows, each computed from the earlier rows that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.modalities.image.architecture import ImageLayer

LEAST_ROWS = 8
"""The least rows of a tile: of smaller tiles, most rows would be computed for their neighbours."""

Advance = Callable[[ImageLayer, ImageLayer, Tensor, int, int], Tensor]
"""The step from rows of a layer's key to those of the next layer's.

Called with (the layer, the next layer, key, first, last). The key [n, c, rows + 2, key_size + 2] is
that of rows first … last - 1 with a halo. Returns the rows of the next key that follow: as many, or
twice as many where the next map is larger.
"""


def most_tiles(layer: ImageLayer) -> int:
    """The largest number of tiles into which the key map of a layer may be split."""
    return max(1, layer.key_size // LEAST_ROWS)


def small_start(layers: Sequence[ImageLayer], tiles: int) -> int:
    """The place of the last of `layers` whose key map is computed as a whole.

    Up to this layer, no key map is larger than a tile of the last layer's.
    """
    numbers = [layer.key_numbers for layer in layers]
    start = 0
    while start + 1 < len(layers) and numbers[start + 1] * tiles <= numbers[-1]:
        start += 1
    return start


def split_layers(
    layers: Sequence[ImageLayer], last: ImageLayer, tiles: int
) -> Sequence[ImageLayer]:
    """Pick the `layers` up to the `last` one whose key maps are computed in tiles.

    The key map of the first of them is computed as a whole.
    """
    before = layers[: layers.index(last) + 1]
    return before[small_start(before, tiles) :]


def tiles_of_rows(
    whole: Tensor, layers: Sequence[ImageLayer], tiles: int, advance: Advance
) -> Iterator[Tensor]:
    """Yield the key map of the last of `layers` in tiles of rows, from top to bottom.

    A tile is [n, in_channels, rows, key_size].

    Parameters
    ----------
    whole
        The key map of the first of them, [n, in_channels, key_size, key_size].
    layers
        Layers that follow one another.
    tiles
        The number of tiles; the last one may have fewer rows.
    advance
        The step from one layer to the next.
    """
    size = layers[-1].key_size
    # Rounded up: no tile is left for a remainder of rows.
    height = -(-size // tiles)
    for top in range(0, size, height):
        yield _rows(whole, layers, advance, top, min(top + height, size))


def _rows(
    whole: Tensor, layers: Sequence[ImageLayer], advance: Advance, top: int, bottom: int
) -> Tensor:
    """Compute rows `top` … `bottom` - 1 of the key map of the last of `layers`."""
    if len(layers) == 1:
        return whole[:, :, top:bottom]
    before, after = layers[-2:]
    scale = after.key_size // before.key_size
    first, last = top // scale, -(-bottom // scale)
    # One more row on each side, as far as the map goes: a 3x3 kernel needs no more.
    above, below = max(first - 1, 0), min(last + 1, before.key_size)
    key = _rows(whole, layers[:-1], advance, above, below)
    # Outside of the map lie the zeros that the convolution pads with.
    key = F.pad(key, (1, 1, above - first + 1, last + 1 - below))
    rows = advance(before, after, key, first, last)
    start = scale * first
    return rows[:, :, top - start : bottom - start]
