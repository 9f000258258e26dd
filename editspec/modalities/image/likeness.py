"""Images of a stream that show at some place what another image shows at its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.progress import StepCallback
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.modalities.image.generator import Generator, keys_of_map

BATCH = 16
"""Images that are traced together."""


@dataclass(frozen=True)
class Scan:
    """The keys of a layer over images, as means over places.

    Attributes
    ----------
    means
        The mean key under each place of each image, [images, places, in_features] float64.
    moment
        C over all positions of all images, [in_features, in_features] float64.
    """

    means: Tensor
    moment: Tensor

    def respond(self, keys: Tensor, weights: Tensor) -> Tensor:
        """Tell how much each place has of the mean of some keys: [images, places].

        Parameters
        ----------
        keys, weights
            [m, in_features], and how much each counts, [m].
        """
        direction = mean_direction(self.moment, keys.cpu(), weights.cpu())[0]
        return self.means @ direction


@torch.no_grad()
def scan(
    generator: Generator, layer: str, latents: Tensor, areas: Tensor, progress: StepCallback
) -> Scan:
    """Collect the keys of a layer under places of images.

    Parameters
    ----------
    latents
        The images, [n, latent_size].
    areas
        How much of each position each place covers, [places, key_size, key_size] float64.
    """
    estimator = SecondMomentEstimator(generator.layer(layer).in_features)
    shares = (areas / areas.sum((1, 2), keepdim=True)).flatten(1)
    found = []
    for batch in torch.split(generator.to_model(latents), BATCH):
        keys = keys_of_map(generator.trace(layer, batch).key).values.double().cpu()
        estimator.update(keys.flatten(0, 1))
        found.append(torch.einsum("sp,npi->nsi", shares, keys))
        progress(sum(map(len, found)), len(latents))
    return Scan(torch.cat(found), estimator.estimate().matrix)


@dataclass(frozen=True)
class Split:
    """Numbers that are split into two groups.

    Attributes
    ----------
    threshold
        What the larger group is above.
    clearness
        The share of the variance that lies between the groups, 0 to 1.
    """

    threshold: float
    clearness: float


def split_in_two(numbers: Tensor) -> Split:
    """Split numbers [n] where the variance between both groups is largest (Otsu's method)."""
    ordered = numbers.double().sort().values
    count, spread = len(ordered), float(ordered.var(unbiased=False))
    if count < 2 or not spread:
        return Split(float(ordered[-1]), 0.0)
    below = torch.arange(1, count).double()
    sums = ordered.cumsum(0)[:-1]
    gap = (ordered.sum() - sums) / (count - below) - sums / below
    between = (below / count) * (1 - below / count) * gap.square()
    best = int(between.argmax())
    threshold = float(ordered[best] + ordered[best + 1]) / 2
    return Split(threshold, float(between[best]) / spread)


def find_nearest(picture: Tensor, others: Tensor, area: Tensor) -> list[int]:
    """Rank pictures by how alike they are to one around a place, the nearest first.

    Parameters
    ----------
    picture, others
        [3, h, w] and [n, 3, h, w].
    area
        The place, [h, w] of truth values. What lies as near to it as it is large counts.
    """
    ring = _surround(area)
    distances = ((others - picture).abs().mean(1) * ring).sum((1, 2))
    order: list[int] = distances.argsort(stable=True).tolist()
    return order


def _surround(area: Tensor) -> Tensor:
    """The pixels around a place, as far as half of its size: [h, w] of 0 and 1."""
    rows, columns = torch.nonzero(area, as_tuple=True)
    height = int(rows.max() - rows.min()) + 1
    width = int(columns.max() - columns.min()) + 1
    reach = (2 * (height // 2) + 1, 2 * (width // 2) + 1)
    padding = (reach[0] // 2, reach[1] // 2)
    wide = F.max_pool2d(area.float()[None, None], reach, 1, padding)[0, 0]
    return wide * ~area


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """Pick `count` of some numbers, evenly over all of them; all where there are fewer."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[index * len(numbers) // count] for index in range(count)]
