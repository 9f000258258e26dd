"""How much a change does to what it was not meant for, predicted from the keys of a sample.

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
from editspec_runtime.core.sample import Sample
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.channelwise import unit_kernels
from editspec_runtime.maths.metric import energy
from editspec_runtime.maths.sampled_keys import KEPT_KEYS, kept_key_maps, keys_of_sample

SAMPLES, FEWEST = 100, 8
"""Items that the correlation of taps is taken from: every position counts, so that few are enough.
As many as have `KEPT_KEYS` numbers, not fewer than the fewest: so the keys are there when the next
rule of the layer asks.
"""


@dataclass(frozen=True)
class Collateral:
    """The mean squared change of a layer's linear output over all keys.

    Attributes
    ----------
    independent
        tr(dW C dW^T) / tr(W C W^T), the taps of a kernel taken as independent.
    correlated
        The change with the correlation between the taps' keys, in units of tr(W C W^T), too.
    energy
        tr(W C W^T), per position of the keys.
    """

    independent: float
    correlated: float
    energy: float

    def as_json(self) -> dict[str, Any]:
        """The three numbers, to six digits: what a patch file says of them."""
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
    """What a change does to the linear output of `layer` on the keys of a sample.

    Parameters
    ----------
    model
        The model before the change.
    coefficients, directions
        A [out, s, kh, kw] or [out, s], and D [s, in]. Without D, the whole change, [..., out, in,
        kh, kw] or [out, in].
    second_moment
        C, [in, in] float64.
    sample
        The sample that C was taken over. Of it the first `SAMPLES` items or fewer tell how
        neighbouring keys correlate. Only the projections D k of the keys are needed, however many
        features the layer has.
    cache
        Where keys that are small are kept from one rule to the next.
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
    independent = energy(coefficients.cpu(), moment)
    correlated = _mean_square(
        model, layer, coefficients, directions, _few(model, layer, sample), compatibility, cache
    )
    if not whole:
        return Collateral(0.0, 0.0, whole)
    return Collateral(independent / whole, correlated / whole, whole)


def _few(model: Model, layer: str, sample: Sample) -> Sample:
    """The items that the correlation of taps is taken from."""
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
    """The mean over positions of the square of what a change adds to the linear output."""
    # Where there are fewer coefficients than outputs: what each adds by itself, and how they go
    # together.
    few = coefficients[0].numel() < len(coefficients)
    response = unit_kernels(coefficients.shape[1:], coefficients) if few else coefficients
    function = model.function(layer)
    if isinstance(function, Convolutional) and isinstance(model, MappedKeys):
        maps = kept_key_maps(cast("MappedModel", model), layer, sample, compatibility, cache)
        answers = _answers_of_maps(function, maps, response, directions)
    else:
        keys = keys_of_sample(model, layer, sample, compatibility)
        answers = _answers_of_rows(keys, response.flatten(1), directions)
    total, positions = torch.zeros((), dtype=torch.float64), 0.0
    for rows, count in answers:
        total = total + (rows @ rows.T if few else rows.square().sum()).cpu()
        positions += count
    if few:
        rows = coefficients.double().cpu().flatten(1)
        total = ((rows @ total) * rows).sum()
    return float(total) / positions


def _answers_of_maps(
    function: Convolutional, maps: Iterator[Tensor], response: Tensor, directions: Tensor | None
) -> Iterator[tuple[Tensor, float]]:
    """Yield what kernels [m, s, kh, kw] answer to key maps, [m, p] float64, and the key positions."""
    for key in maps:
        seen = key if directions is None else torch.einsum("nihw,si->nshw", key, directions)
        answer = function.convolution(seen, response)
        yield answer.movedim(1, 0).flatten(1).double(), key.shape[0] * key.shape[2] * key.shape[3]


def _answers_of_rows(
    batches: Iterator[Keys], response: Tensor, directions: Tensor | None
) -> Iterator[tuple[Tensor, float]]:
    """Yield what a matrix [m, s] answers to keys, [m, p] float64, and the weight of the keys.

    Each answer is multiplied by the root of its key's weight, so that its square counts by it.
    """
    for keys in batches:
        rows, weight = keys.rows()
        seen = rows if directions is None else rows @ directions.T
        answer = (seen @ response.T).double()
        if weight is None:
            yield answer.T, float(len(rows))
        else:
            yield (answer * weight.double().sqrt()[:, None]).T, float(weight.double().sum())
