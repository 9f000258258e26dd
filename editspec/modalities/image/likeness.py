"""Images of a stream that show at some place what another image shows at its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import Trace
from editspec_runtime.core.progress import StepCallback
from editspec_runtime.maths.directions import mean_direction
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.modalities.image.generator import Generator, keys_of_map

CERTAIN = 5
"""The number of standard errors by which two kinds of pictures differ where they do."""

LEAST_GAP = 0.05
"""The least difference of colours there, of pictures in -1..1."""

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
        return self.means @ self.direction(keys, weights)

    def direction(self, keys: Tensor, weights: Tensor) -> Tensor:
        """Compute C^-1 k of the mean k of keys [m, in_features] with weights [m]."""
        return mean_direction(self.moment, keys.cpu(), weights.cpu())[0]


@torch.no_grad()
def scan(
    generator: Generator, places: Mapping[str, Tensor], latents: Tensor, progress: StepCallback
) -> dict[str, Scan]:
    """Collect the keys of layers under places of images, each image drawn once.

    Parameters
    ----------
    places
        The layers in the order of computation, and how much of each of their positions each place
        covers, [places, key_size, key_size] float64.
    latents
        The images, [n, latent_size].
    """
    estimators, shares = {}, {}
    found: dict[str, list[Tensor]] = {name: [] for name in places}
    for name, areas in places.items():
        estimators[name] = SecondMomentEstimator(generator.layer(name).in_features)
        shares[name] = (areas / areas.sum((1, 2), keepdim=True)).flatten(1)
    done = 0
    for batch in torch.split(generator.to_model(latents), BATCH):
        for name, trace in _trace_layers(generator, list(places), batch):
            keys = keys_of_map(trace.key).values.double().cpu()
            estimators[name].update(keys.flatten(0, 1))
            found[name].append(torch.einsum("sp,npi->nsi", shares[name], keys))
        done += len(batch)
        progress(done, len(latents))
    scans = {}
    for name, means in found.items():
        scans[name] = Scan(torch.cat(means), estimators[name].estimate().matrix)
    return scans


def _trace_layers(
    generator: Generator, names: Sequence[str], latents: Tensor
) -> Iterator[tuple[str, Trace]]:
    """Trace layers one after the other, each from the one before."""
    trace = generator.trace(names[0], latents)
    yield names[0], trace
    for before, name in pairwise(names):
        output = generator.layer_output(before, generator.layer_value(before, trace))
        trace = generator.forward_between(before, output, trace, name)
        yield name, trace


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


def tell_apart(ones: Tensor, others: Tensor) -> Tensor:
    """Find where two kinds of pictures [n, 3, h, w] differ on average, [h, w] of truth values.

    What varies within both kinds alike, such as the place of a sun, differs nowhere.
    """
    gap = (ones.mean(0) - others.mean(0)).square().sum(0)
    noise = (ones.var(0) / len(ones) + others.var(0) / len(others)).sum(0)
    differs = (gap > CERTAIN**2 * noise) & (gap.sqrt() > LEAST_GAP)
    # Without the pixels that stand alone.
    return F.avg_pool2d(differs.float()[None, None], 3, 1, 1)[0, 0] > 0.5


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """Pick `count` of some numbers, evenly over all of them; all where there are fewer."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[index * len(numbers) // count] for index in range(count)]
