"""Second moments of a layer's design: keys under every tap of a kernel, together.

The design x of a value position holds what each coefficient of a change adds there. Over all input
units as directions, it holds the keys under all taps: their moment knows that neighbouring keys are
alike, which C alone does not (tr(dW C dW^T) counts the taps as independent).
"""

from __future__ import annotations

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.model import LayerFunction, Model
from editspec_runtime.core.rule import PreservedKeys
from editspec_runtime.core.sample import Sample
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.channelwise import design_of, designs_of
from editspec_runtime.maths.low_rank import kernel_of
from editspec_runtime.maths.moments import SecondMomentEstimator
from editspec_runtime.maths.sampled_keys import forward_batch, key_inputs

ROWS_PER_UNKNOWN, MOST_ROWS = 40, 2**16
"""The number of rows that a moment is taken over: so many for each unknown, and at most."""

LEAST_ITEMS = 100
"""The least number of items, where the sample has as many: rows of one image are alike."""


def tapped_moment(
    model: Model, layer: str, sample: Sample, compatibility: Compatibility, cache: Cache
) -> Tensor:
    """Find E[x x^T] of the design over a sample in the cache, or compute it.

    Returns
    -------
    Tensor
        [n, n] float64 for n = in_features * taps, unscaled, in the order of a kernel [in, *taps].
        The rows are spread over the first items of the sample.
    """
    size = forward_batch(model, layer, sample, compatibility)
    inputs = key_inputs(model, layer, sample, size)
    inputs["taps"] = [list(_taps(model, layer)), ROWS_PER_UNKNOWN, MOST_ROWS, LEAST_ITEMS]

    def compute() -> dict[str, Tensor]:
        return {"moment": _compute(model, layer, sample, size)}

    return cache.tensors("statistics", digest(inputs), compute)[0]["moment"]


def _taps(model: Model, layer: str) -> torch.Size:
    return kernel_of(model.weight(layer)).shape[2:]


@torch.no_grad()
def _compute(model: Model, layer: str, sample: Sample, size: int) -> Tensor:
    weight, function = model.weight(layer), model.function(layer)
    shape = model.architecture.layers[layer]
    unknowns = shape.in_features * _taps(model, layer).numel()
    wanted = min(ROWS_PER_UNKNOWN * unknowns, MOST_ROWS)
    positions = shape.value_positions or sample.longest or 1
    items = min(sample.count, max(LEAST_ITEMS, -(-wanted // positions)))
    stride = max(1, items * positions // wanted)
    units = torch.eye(shape.in_features).to(weight)
    estimator = SecondMomentEstimator(unknowns, weight.device)
    seen = 0
    for batch in sample.batches(model, size, range(items)):
        trace = model.trace(layer, batch)
        design = design_of(function, trace.key, weight, units, trace.arguments)
        for rows in design:
            # Every image begins at another position, so that no place of the map is left out.
            estimator.update(rows[seen % stride :: stride])
            seen += 1
    return estimator.estimate().matrix.cpu()


@torch.no_grad()
def preserved_moment(
    function: LayerFunction, weight: Tensor, directions: Tensor, preserved: PreservedKeys
) -> Tensor:
    """Compute the sum of x x^T times its share over preserved keys, [n, n] float64.

    Parameters
    ----------
    function, weight
        The layer's function and its unedited weight.
    directions
        D [s, in]: n = s * taps.
    preserved
        The keys, and the share of each of their value positions.
    """
    unknowns = len(directions) * kernel_of(weight).shape[2:].numel()
    estimator = SecondMomentEstimator(unknowns, weight.device)
    designs = designs_of(function, preserved.key, weight, directions, preserved.arguments)
    for rows, shares in zip(designs, preserved.value_weights, strict=True):
        estimator.update(rows, shares)
    moment = estimator.estimate()
    return moment.weight * moment.matrix
