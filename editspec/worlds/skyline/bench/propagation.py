"""Edit propagation in images: the baseline that the paper makes of Neural Best-Buddies (Aberman et
al. 2018).

No model is edited. Places of an example image are matched with those of another by the generator's
own features, the sparse matches are made dense by moving least squares (Schaefer et al. 2006), and
the edited part of the example is warped into the other image and pasted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.modalities.image.generator import Generator

COARSE_TO_FINE = (16, 32)
"""Positions a side of the maps whose features are matched, each within what the one before has
found.
"""


@dataclass(frozen=True)
class Example:
    """An edited image.

    Attributes
    ----------
    features
        Feature maps of the unedited image, coarse to fine, each [c, h, h].
    edited
        The edited image, [3, size, size] in -1..1.
    area
        Where it was edited, [size, size] in 0..1.
    """

    features: Sequence[Tensor]
    edited: Tensor
    area: Tensor


def feature_maps(generator: Generator, latents: Tensor) -> list[Tensor]:
    """The last value map of each size in `COARSE_TO_FINE`, [n, c, h, h]."""
    maps = []
    for size in COARSE_TO_FINE:
        layer = [
            layer.name
            for layer in generator.architecture.layers.values()
            if layer.value_size == size
        ][-1]
        maps.append(generator.layer_value(layer, generator.trace(layer, latents)))
    return maps


def propagate_edit(
    example: Example, features: Sequence[Tensor], image: Tensor, *, laplace: bool
) -> Tensor:
    """The edit of an example carried over to another image.

    Parameters
    ----------
    example
        What was edited.
    features
        Feature maps of the other image, coarse to fine, each [c, h, h].
    image
        The other image, [3, size, size] in -1..1.
    laplace
        Whether what is pasted keeps only its gradients, and its colours come from what is around
        it.

    Returns
    -------
    Tensor
        [3, size, size] in -1..1.
    """
    here, there = best_buddies(features, example.features)
    if not len(here):
        return image
    size = image.shape[-1]
    # The field is smooth: it is fitted at every second pixel of a row and of a column.
    half = size // 2
    grid = (
        moving_least_squares(here, there, _centres(half)).reshape(1, half, half, 2).movedim(-1, 1)
    )
    warp = (
        F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)
        .movedim(1, -1)
        .to(image)
        * 2
        - 1
    )
    edited = F.grid_sample(example.edited[None], warp, padding_mode="border", align_corners=False)[
        0
    ]
    area = F.grid_sample(example.area[None, None].to(image), warp, align_corners=False)[0]
    return _laplace_blended(image, edited, area[0]) if laplace else image + area * (edited - image)


def best_buddies(here: Sequence[Tensor], there: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Places of two images that are each other's nearest neighbours in feature space, found coarse
    to fine.

    Parameters
    ----------
    here, there
        Feature maps of the two images, coarse to fine, each [c, h, h].

    Returns
    -------
    tuple[Tensor, Tensor]
        [m, 2] each: x and y in 0..1 of every pair, in the one image and in the other.
    """
    allowed = torch.ones(here[0].shape[-1] ** 2, there[0].shape[-1] ** 2, dtype=torch.bool)
    pairs = torch.empty(0, 2, dtype=torch.long)
    for level, (one, other) in enumerate(zip(here, there, strict=True)):
        if level:
            allowed = _around(pairs, here[level - 1].shape[-1], one.shape[-1])
        likeness = F.normalize(one.flatten(1), dim=0).T @ F.normalize(other.flatten(1), dim=0)
        likeness = likeness.cpu().masked_fill(~allowed, -torch.inf)
        best, back = likeness.argmax(1), likeness.argmax(0)
        mutual = (back[best] == torch.arange(len(best))) & allowed.any(1)
        pairs = torch.stack([mutual.nonzero().flatten(), best[mutual]], 1)
    size = here[-1].shape[-1]
    points = (torch.stack([pairs % size, pairs // size], 2) + 0.5) / size
    return points[:, 0], points[:, 1]


def _around(pairs: Tensor, size: int, finer: int) -> Tensor:
    """Which pairs of places of finer maps lie in or beside those of pairs of places that were
    found.
    """
    scale = finer // size
    allowed = torch.zeros(2, len(pairs), finer * finer, dtype=torch.bool)
    rows, columns = torch.arange(finer).repeat_interleave(finer), torch.arange(finer).repeat(finer)
    for side in range(2):
        row, column = pairs[:, side, None] // size, pairs[:, side, None] % size
        near = (rows >= (row - 1) * scale) & (rows < (row + 2) * scale)
        allowed[side] = near & (columns >= (column - 1) * scale) & (columns < (column + 2) * scale)
    return (allowed[0].float().T @ allowed[1].float()) > 0


def moving_least_squares(points: Tensor, images: Tensor, places: Tensor) -> Tensor:
    """Where places go when `points` go to `images`, by similarities fitted around each place
    (Schaefer et al. 2006).

    Parameters
    ----------
    points, images
        [m, 2]: x and y of matched points.
    places
        [n, 2].

    Returns
    -------
    Tensor
        [n, 2]. A place at one of `points` goes to its image; where there is one point only, all
        move as it does.
    """
    p, q, v = (torch.view_as_complex(given.contiguous()) for given in (points, images, places))
    weights = 1 / ((v[:, None] - p[None]).abs().square() + 1e-9)
    weights = weights / weights.sum(1, keepdim=True)
    # Numbers of the complex plane: a turn and a stretch together are one multiplication.
    p_mean, q_mean = (weights * p).sum(1), (weights * q).sum(1)
    p_rest, q_rest = p[None] - p_mean[:, None], q[None] - q_mean[:, None]
    spread = (weights * p_rest.abs().square()).sum(1)
    turn = (weights * p_rest.conj() * q_rest).sum(1)
    # So near to a point that all others vanish beside it, there is nothing to fit: the place moves
    # as the point does.
    turn = torch.where(spread > 1e-12, turn / spread.clamp(min=1e-12), torch.ones_like(turn))
    return torch.view_as_real(turn * (v - p_mean) + q_mean)


def _centres(size: int) -> Tensor:
    """Centres of the cells of a grid over an image, row by row, [size * size, 2]: x and y in
    0..1.
    """
    line = (torch.arange(size) + 0.5) / size
    return torch.stack([line.repeat(size), line.repeat_interleave(size)], 1)


def _laplace_blended(image: Tensor, pasted: Tensor, area: Tensor) -> Tensor:
    """`pasted` within `area`, its colours shifted so that they fit those of `image` at the edge
    (Perez et al. 2003).
    """
    import cv2
    import numpy as np

    # The solver needs a border of the image around what it fills in.
    inside = F.pad(area[1:-1, 1:-1], (1, 1, 1, 1)) > 0.5
    if not bool(inside.any()):
        return image
    rows, columns = inside.nonzero(as_tuple=True)
    centre = (int(columns.min() + columns.max() + 1) // 2, int(rows.min() + rows.max() + 1) // 2)
    source, target = (
        ((part.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        for part in (pasted, image)
    )
    mask = np.ascontiguousarray(inside.cpu().numpy().astype(np.uint8) * 255)
    blended = cv2.seamlessClone(source, target, mask, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(blended).permute(2, 0, 1).to(image) / 127.5 - 1
