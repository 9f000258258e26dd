"""Where a key matches: the images and places of a latent stream at which a layer sees most of a
direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.maths.moments import key_maps
from editspec_runtime.modalities.image.generator import Box, Generator
from editspec_runtime.modalities.image.latents import LatentStream

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Match:
    """One image that matches.

    Attributes
    ----------
    latent
        Its number in the stream.
    score
        The most that any of its positions has of the direction.
    place
        The positions around that one, connected to it, that have at least half as much.
    """

    latent: int
    score: float
    place: Box


@torch.no_grad()
def search(
    generator: Generator,
    layer: str,
    direction: Tensor,
    stream: LatentStream,
    images: int,
    count: int,
    conventions: Compatibility,
    progress: Progress = lambda done, total: None,
) -> list[Match]:
    """The `count` images of items 0 … `images` - 1 whose best position has most of `direction` [1,
    in_channels].

    As in the notebook of the paper's authors, an image is ranked by the maximum over its positions;
    of equal ones the first comes first.
    """
    found: list[Match] = []
    for scores in _score_maps(generator, layer, direction, stream, images, conventions):
        for each in scores:
            found.append(Match(len(found), float(each.max()), _around_peak(each)))
        progress(len(found), images)
    return sorted(found, key=lambda match: -match.score)[:count]


@torch.no_grad()
def exceeding(
    generator: Generator,
    layer: str,
    direction: Tensor,
    threshold: float,
    stream: LatentStream,
    images: int,
    conventions: Compatibility,
) -> float:
    """The share of all positions of items 0 … `images` - 1 that have at least `threshold` of
    `direction`.
    """
    above = positions = 0
    for scores in _score_maps(generator, layer, direction, stream, images, conventions):
        above += int((scores >= threshold).sum())
        positions += scores.numel()
    return above / positions


def _score_maps(
    generator: Generator,
    layer: str,
    direction: Tensor,
    stream: LatentStream,
    images: int,
    conventions: Compatibility,
) -> Iterator[Tensor]:
    """How much each position has of the direction, chunk by chunk: [chunk, h, w] float64."""
    for key in key_maps(generator, layer, stream, images, conventions):
        yield torch.einsum("nihw,i->nhw", key, direction[0].to(key)).double().cpu()


def _around_peak(scores: Tensor) -> Box:
    """The positions connected to the highest of `scores` [h, w] that have at least half as much."""
    peak = scores.max()
    inside = scores >= (peak / 2 if peak > 0 else peak)
    region = scores == peak
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
    rows_, columns_ = torch.nonzero(region, as_tuple=True)
    return Box(int(rows_.min()), int(columns_.min()), int(rows_.max()) + 1, int(columns_.max()) + 1)
