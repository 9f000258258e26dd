"""How much a patch changes what it was not meant for: predicted from the second moment of the keys
(paper Eqn. 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.moments import KEPT_KEYS, kept_key_maps
from editspec_runtime.modalities.image.generator import Generator, unit_kernels
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import Patch

SAMPLES, FEWEST = 100, 8
"""Latents that the correlation of taps is taken from: every position counts, so that few are
enough. As many as have `KEPT_KEYS` numbers, not fewer than the fewest: so the keys are there when
the next rule of the layer asks.
"""


@dataclass(frozen=True)
class Collateral:
    """The mean squared change of a layer's linear output over all keys.

    Attributes
    ----------
    independent
        tr(dW C dW^T) / tr(W C W^T), the taps of a kernel taken as independent.
    correlated
        The same change with the correlation between the taps' keys, in units of tr(W C W^T), too.
    energy
        tr(W C W^T), per position of the key map.
    """

    independent: float
    correlated: float
    energy: float

    def as_json(self) -> dict[str, Any]:
        """The three numbers, to six digits: what a patch file says of them."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items()}


@torch.no_grad()
def predicted(
    generator: Generator,
    layer: str,
    change: Patch,
    second_moment: Tensor,
    stream: LatentStream,
    samples: int,
    conventions: Compatibility,
    cache: Cache,
) -> Collateral:
    """What `change` does to the linear output of `layer` on the keys of a sample.

    Parameters
    ----------
    generator
        The model before the change.
    change
        Factors or the full change of the layer's parameter.
    second_moment
        C, [in_channels, in_channels] float64.
    stream, samples
        The sample that C was taken over; of it the first `SAMPLES` or fewer tell how neighbouring
        keys correlate. Only the projections D k of the keys are needed, however many channels the
        layer has.
    cache
        Where keys that are small are kept from one rule to the next.
    """
    parameter = generator.layer(layer).parameter
    weight = generator.weight(layer)
    kernel = weight.reshape(weight.shape[-4:])
    if parameter in change.deltas:
        delta = change.deltas[parameter]
        delta = delta.transpose(0, 1) if generator.layer(layer).axes.startswith("i") else delta
        coefficients, directions = delta.reshape(kernel.shape), None
        moment = second_moment
    else:
        coefficients, directions = (
            change.coefficients[parameter],
            change.directions[parameter].to(kernel),
        )
        moment = directions.double().cpu() @ second_moment @ directions.double().cpu().T
    energy = _energy(kernel, second_moment)
    if not bool(coefficients.any()):
        return Collateral(0.0, 0.0, energy)
    coefficients = coefficients.to(kernel)
    # Where there are fewer coefficients than outputs: what each adds by itself, and how they go
    # together.
    few = coefficients[0].numel() < len(coefficients)
    response = unit_kernels(coefficients.shape[1:], kernel) if few else coefficients
    function = generator.function(layer)
    samples = min(samples, SAMPLES, max(FEWEST, KEPT_KEYS // generator.layer(layer).key_numbers))
    total, positions = torch.zeros((), dtype=torch.float64), 0
    for key in kept_key_maps(generator, layer, stream, samples, conventions, cache):
        seen = key if directions is None else torch.einsum("nihw,si->nshw", key, directions)
        rows = function.convolution(seen, response).movedim(1, 0).flatten(1).double()
        total = total + (rows @ rows.T if few else rows.square().sum()).cpu()
        positions += key.shape[0] * key.shape[2] * key.shape[3]
    if few:
        rows = coefficients.double().cpu().flatten(1)
        total = ((rows @ total) * rows).sum()
    return Collateral(
        _energy(coefficients, moment) / energy if energy else 0.0,
        float(total) / positions / energy if energy else 0.0,
        energy,
    )


def _energy(kernel: Tensor, moment: Tensor) -> float:
    """tr(W M W^T) over all taps of a kernel [out, c, kh, kw] and a moment [c, c]."""
    rows = kernel.double().cpu().movedim(1, -1).reshape(-1, len(moment))
    return float(((rows @ moment) * rows).sum())
