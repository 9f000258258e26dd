"""Collateral: the change of values that an edit should keep, predicted from keys.

The prediction is the second moment of the keys under the change (paper Eqn. 12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.model import Convolutional, Keys, MappedKeys, MappedModel, Model
from editspec_runtime.core.sample import Regularised, Sample
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.channelwise import unit_kernels
from editspec_runtime.maths.metric import energy
from editspec_runtime.maths.sampled_keys import KEPT_KEYS, cached_key_maps, keys_of_sample

SAMPLES, FEWEST = 100, 8
"""The largest and the smallest number of items that the correlation of taps is computed from.

Few items are enough because every position counts. In between, as many are taken as `KEPT_KEYS`
allows, so that their keys are in the cache for the next rule of the layer.
"""


@dataclass(frozen=True)
class Collateral:
    """The mean squared change of a layer's linear output over all keys.

    Attributes
    ----------
    independent
        tr(dW C dW^T) / tr(W C W^T), if the taps of a kernel are independent.
    correlated
        The same ratio, if the correlation between the keys of the taps counts.
    energy
        tr(W C W^T), for each position of the keys.
    """

    independent: float
    correlated: float
    energy: float

    def as_json(self) -> dict[str, Any]:
        """The three numbers to six digits, as they stand in a patch file."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items()}


@torch.no_grad()
def predict_collateral(
    model: Model,
    layer: str,
    coefficients: Tensor,
    directions: Tensor | None,
    second_moment: Tensor,
    sample: Sample,
    compatibility: Compatibility,
    cache: Cache,
) -> Collateral:
    """Predict the change of the linear output of `layer` on the keys of a sample.

    Parameters
    ----------
    model
        The model before the change.
    coefficients, directions
        A [out, s, kh, kw] or [out, s], and D [s, in]. If D is None, `coefficients` is the whole
        change, [..., out, in, kh, kw] or [out, in].
    second_moment
        C, [in, in] float64.
    sample
        The sample that C was computed from. At most the first `SAMPLES` items give the correlation
        of neighbouring keys. Only the projections D k of the keys are needed, however many features
        the layer has.
    cache
        The cache that keeps small keys from one rule to the next.
    """
    weight = model.weight(layer)
    whole = energy(weight, second_moment)
    if not bool(coefficients.any()):
        return Collateral(0.0, 0.0, whole)
    shape = model.architecture.layers[layer]
    inputs = shape.in_features if directions is None else len(directions)
    taps = weight.shape[-2:] if weight.ndim > 2 else ()
    coefficients = coefficients.to(weight).reshape(shape.out_features, inputs, *taps)
    moment = second_moment
    if directions is not None:
        directions = directions.to(weight)
        wide = directions.double().cpu()
        moment = wide @ second_moment @ wide.T
    independent = correlated = energy(coefficients.cpu(), moment)
    # C of a regularised sample says more than its items do, and a matrix has no taps.
    if not isinstance(sample, Regularised):
        correlated = _mean_square(
            model, layer, coefficients, directions, _few(model, layer, sample), compatibility, cache
        )
    if not whole:
        return Collateral(0.0, 0.0, whole)
    return Collateral(independent / whole, correlated / whole, whole)


def _few(model: Model, layer: str, sample: Sample) -> Sample:
    """The items that the correlation of taps is computed from."""
    shape = model.architecture.layers[layer]
    numbers = shape.key_numbers or shape.in_features * (sample.longest or 1)
    return sample.first(min(SAMPLES, max(FEWEST, KEPT_KEYS // numbers)))


def _mean_square(
    model: Model,
    layer: str,
    coefficients: Tensor,
    directions: Tensor | None,
    sample: Sample,
    compatibility: Compatibility,
    cache: Cache,
) -> float:
    """The mean square over positions of the change of the linear output."""
    # If there are fewer coefficients than outputs, it is cheaper to convolve the keys with one unit
    # kernel for each coefficient. Their Gram matrix then gives the mean square of any combination.
    few = coefficients[0].numel() < len(coefficients)
    response = unit_kernels(coefficients.shape[1:], coefficients) if few else coefficients
    function = model.function(layer)
    if isinstance(function, Convolutional) and isinstance(model, MappedKeys):
        maps = cached_key_maps(cast("MappedModel", model), layer, sample, compatibility, cache)
        answers = _answers_of_maps(function, maps, response, directions)
    else:
        keys = keys_of_sample(model, layer, sample, compatibility)
        answers = _answers_of_rows(keys, response.flatten(1), directions)
    total, positions = torch.zeros((), dtype=torch.float64), 0.0
    for rows, count in answers:
        squares = rows @ rows.T if few else rows.square().sum()
        total = total + squares.cpu()
        positions += count
    if few:
        rows = coefficients.double().cpu().flatten(1)
        total = ((rows @ total) * rows).sum()
    return float(total) / positions


def _answers_of_maps(
    function: Convolutional, maps: Iterator[Tensor], response: Tensor, directions: Tensor | None
) -> Iterator[tuple[Tensor, float]]:
    """Yield the answers of kernels to key maps, and the number of their positions.

    `response` is [m, s, kh, kw]. The answers of a batch are [m, p] float64.
    """
    for key in maps:
        seen = key if directions is None else torch.einsum("nihw,si->nshw", key, directions)
        answer = function.convolution(seen, response)
        positions = key.shape[0] * key.shape[2] * key.shape[3]
        yield answer.movedim(1, 0).flatten(1).double(), positions


def _answers_of_rows(
    batches: Iterator[Keys], response: Tensor, directions: Tensor | None
) -> Iterator[tuple[Tensor, float]]:
    """Yield the answers of a matrix to keys, and the sum of the weights of the keys.

    `response` is [m, s]. The answers of a batch are [m, p] float64. Each answer is multiplied by
    the root of the weight of its key, so that its square is weighted.
    """
    for keys in batches:
        rows, weight = keys.rows()
        seen = rows if directions is None else rows @ directions.T
        answer = (seen @ response.T).double()
        if weight is None:
            yield answer.T, float(len(rows))
        else:
            yield (answer * weight.double().sqrt()[:, None]).T, float(weight.double().sum())
