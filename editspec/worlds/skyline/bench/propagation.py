"""Edit propagation in images by Neural Best-Buddies (Aberman et al. 2018).

This is the paper's baseline. No model is edited. Places of an example image are matched with those
of another by the generator's own features. The sparse matches are made dense by moving least
squares (Schaefer et al. 2006). The edited part of the example is warped into the other image and
pasted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec.modalities.image.pictures import to_image
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.modalities.image.generator import Generator

COARSE_TO_FINE = (16, 32)
"""Positions a side of the maps whose features are matched, each within the matches before."""


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
    """Compute the last value map of each size in `COARSE_TO_FINE`, [n, c, h, h]."""
    maps = []
    layers = generator.architecture.layers.values()
    for size in COARSE_TO_FINE:
        last = [layer.name for layer in layers if layer.value_size == size][-1]
        maps.append(generator.layer_value(last, generator.trace(last, latents)))
    return maps


def propagate_edit(
    example: Example, features: Sequence[Tensor], image: Tensor, *, laplace: bool
) -> Tensor:
    """Carry the edit of an example over to another image.

    Parameters
    ----------
    example
        The edited image and its features.
    features
        Feature maps of the other image, coarse to fine, each [c, h, h].
    image
        The other image, [3, size, size] in -1..1.
    laplace
        Whether the pasted part keeps only its gradients, and takes its colours from around it.

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
    places = moving_least_squares(here, there, _centres(half))
    grid = places.reshape(1, half, half, 2).movedim(-1, 1)
    wide = F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)
    # grid_sample reads coordinates in -1..1, x before y.
    warp = wide.movedim(1, -1).to(image) * 2 - 1
    whole, where = (part[None].to(image) for part in (example.edited, example.area[None]))
    edited = F.grid_sample(whole, warp, padding_mode="border", align_corners=False)[0]
    # Outside of the example nothing was edited: the area is padded by zeros.
    area = F.grid_sample(where, warp, align_corners=False)[0]
    if laplace:
        return _blend_laplace(image, edited, area[0])
    return image + area * (edited - image)


def best_buddies(here: Sequence[Tensor], there: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Find places of two images that are nearest neighbours of each other in features.

    Places are matched coarse to fine, as Neural Best-Buddies does.

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
            allowed = _near_pairs(pairs, here[level - 1].shape[-1], one.shape[-1])
        likeness = F.normalize(one.flatten(1), dim=0).T @ F.normalize(other.flatten(1), dim=0)
        likeness = likeness.cpu().masked_fill(~allowed, -torch.inf)
        best, back = likeness.argmax(1), likeness.argmax(0)
        mutual = (back[best] == torch.arange(len(best))) & allowed.any(1)
        pairs = torch.stack([mutual.nonzero().flatten(), best[mutual]], 1)
    size = here[-1].shape[-1]
    points = (torch.stack([pairs % size, pairs // size], 2) + 0.5) / size
    return points[:, 0], points[:, 1]


def _near_pairs(pairs: Tensor, size: int, finer: int) -> Tensor:
    """Tell which pairs of places of finer maps lie near pairs that were found.

    Near are the cells of the two places themselves, and their neighbours on all sides.

    Parameters
    ----------
    pairs
        [m, 2]: places of the two maps as numbers, row by row.
    size, finer
        Positions a side of these maps, and of the finer ones.

    Returns
    -------
    Tensor
        [finer^2, finer^2] of truth values.
    """
    scale = finer // size
    allowed = torch.zeros(2, len(pairs), finer * finer, dtype=torch.bool)
    rows, columns = torch.arange(finer).repeat_interleave(finer), torch.arange(finer).repeat(finer)
    for side in range(2):
        row, column = pairs[:, side, None] // size, pairs[:, side, None] % size
        near = (rows >= (row - 1) * scale) & (rows < (row + 2) * scale)
        allowed[side] = near & (columns >= (column - 1) * scale) & (columns < (column + 2) * scale)
    # A pair is allowed where both of its places are near the places of one pair that was found.
    return (allowed[0].float().T @ allowed[1].float()) > 0


def moving_least_squares(points: Tensor, images: Tensor, places: Tensor) -> Tensor:
    """Compute where places go when `points` go to `images`.

    The map of a place is the similarity that fits the points best, near points counting most
    (moving least squares, Schaefer et al. 2006).

    Parameters
    ----------
    points, images
        [m, 2]: x and y of matched points.
    places
        [n, 2].

    Returns
    -------
    Tensor
        [n, 2]. A place at one of `points` goes to its image. Where there is one point only, all
        places move as the point does.
    """
    p, q, v = (torch.view_as_complex(given.contiguous()) for given in (points, images, places))
    weights = 1 / ((v[:, None] - p[None]).abs().square() + 1e-9)
    weights = weights / weights.sum(1, keepdim=True)
    # Numbers of the complex plane: a turn and a stretch together are one multiplication.
    p_mean, q_mean = (weights * p).sum(1), (weights * q).sum(1)
    p_rest, q_rest = p[None] - p_mean[:, None], q[None] - q_mean[:, None]
    spread = (weights * p_rest.abs().square()).sum(1)
    turn = (weights * p_rest.conj() * q_rest).sum(1)
    # Where one point is so near that all others vanish, there is nothing to fit: the place moves
    # as the point does.
    turn = torch.where(spread > 1e-12, turn / spread.clamp(min=1e-12), torch.ones_like(turn))
    return torch.view_as_real(turn * (v - p_mean) + q_mean)


def _centres(size: int) -> Tensor:
    """Compute x and y in 0..1 of the cells of a grid, row by row, [size * size, 2]."""
    line = (torch.arange(size) + 0.5) / size
    return torch.stack([line.repeat(size), line.repeat_interleave(size)], 1)


def _blend_laplace(image: Tensor, pasted: Tensor, area: Tensor) -> Tensor:
    """Paste within `area` with colours shifted to fit `image` at the edge.

    The shift solves the Poisson equation (Perez et al. 2003). Images are [3, size, size] in -1..1,
    `area` is [size, size] in 0..1.
    """
    # OpenCV comes with the extra `bench` alone, and only this row of the tables needs it.
    cv2 = load_extra("bench")

    # The solver needs a border of the image around what it fills in.
    inside = F.pad(area[1:-1, 1:-1], (1, 1, 1, 1)) > 0.5
    if not bool(inside.any()):
        return image
    rows, columns = inside.nonzero(as_tuple=True)
    # OpenCV centres the mask's bounding box at this point: any other would move the paste.
    centre = (int(columns.min() + columns.max() + 1) // 2, int(rows.min() + rows.max() + 1) // 2)
    source, target = (np.array(to_image(part.cpu())) for part in (pasted, image))
    mask = np.ascontiguousarray(inside.cpu().numpy().astype(np.uint8) * 255)
    blended = cv2.seamlessClone(source, target, mask, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(blended).permute(2, 0, 1).to(image) / 127.5 - 1
