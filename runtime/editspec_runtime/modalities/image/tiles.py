"""The key map of a layer in tiles of rows, each computed from the rows that it needs before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.modalities.image.architecture import ImageLayer

LEAST_ROWS = 8
"""A tile has at least so many rows: of smaller ones, most would be computed for the tiles next to
them.
"""

Advance = Callable[[ImageLayer, ImageLayer, Tensor, int, int], Tensor]
"""Called with (a layer, the next one, the haloed key [n, c, rows + 2, key_size + 2] of rows first …
last - 1, first, last); gives the key of the next layer that follows from these rows: as many, or
twice as many where it is larger.
"""


def most_tiles(layer: ImageLayer) -> int:
    """Into how many tiles a key map may be split."""
    return max(1, layer.key_size // LEAST_ROWS)


def small_start(layers: Sequence[ImageLayer], tiles: int) -> int:
    """The last of `layers` up to which no key map is larger than a tile of the last one: it is
    computed as a whole.
    """
    numbers = [layer.key_numbers for layer in layers]
    start = 0
    while start + 1 < len(layers) and numbers[start + 1] * tiles <= numbers[-1]:
        start += 1
    return start


def split_layers(
    layers: Sequence[ImageLayer], last: ImageLayer, tiles: int
) -> Sequence[ImageLayer]:
    """Those of `layers` up to the `last` one that are computed in tiles, behind a first one that is
    computed whole.
    """
    before = layers[: layers.index(last) + 1]
    return before[small_start(before, tiles) :]


def tiles_of_rows(
    whole: Tensor, layers: Sequence[ImageLayer], tiles: int, advance: Advance
) -> Iterator[Tensor]:
    """The key map of the last of `layers`, tile by tile: [n, in_channels, rows, key_size], top to
    bottom.

    Parameters
    ----------
    whole
        The key map of the first of them, [n, in_channels, key_size, key_size].
    layers
        Layers that follow one another.
    tiles
        How many tiles; the last may have fewer rows.
    advance
        The way from one layer to the next.
    """

    size = layers[-1].key_size
    height = -(-size // tiles)
    for top in range(0, size, height):
        yield _rows(whole, layers, advance, top, min(top + height, size))


def _rows(
    whole: Tensor, layers: Sequence[ImageLayer], advance: Advance, top: int, bottom: int
) -> Tensor:
    """Rows `top` … `bottom` - 1 of the key map of the last of `layers`."""
    if len(layers) == 1:
        return whole[:, :, top:bottom]
    before, after = layers[-2:]
    scale = after.key_size // before.key_size
    first, last = top // scale, -(-bottom // scale)
    above, below = max(first - 1, 0), min(last + 1, before.key_size)
    key = _rows(whole, layers[:-1], advance, above, below)
    # Outside of the map lie the zeros that the convolution pads with.
    key = F.pad(key, (1, 1, above - first + 1, last + 1 - below))
    return advance(before, after, key, first, last)[
        :, :, top - scale * first : bottom - scale * first
    ]
