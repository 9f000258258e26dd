"""Retrieval: the items of a sample at which a layer responds to a direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.model import Keys, Model
from editspec_runtime.core.sample import Sample
from editspec_runtime.maths.sampled_keys import keys_of_sample

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Match:
    """An item that matches.

    Attributes
    ----------
    item
        The number of the item in the sample.
    score
        The largest response of its positions.
    responses
        The response of each position, [positions] float64; minus infinity for padding.
    """

    item: int
    score: float
    responses: Tensor


def respond(keys: Tensor, direction: Tensor) -> Tensor:
    """Compute the response of each key to a direction.

    Keys are [n, positions, in_features], the direction is [in_features], responses are
    [n, positions]. With C^-1 k as the direction, the responses say where a key k matches (Eqn. 16).
    """
    return torch.einsum("npi,i->np", keys, direction.to(keys))


@torch.no_grad()
def search(
    model: Model,
    layer: str,
    direction: Tensor,
    sample: Sample,
    count: int,
    compatibility: Compatibility,
    progress: Progress = lambda done, total: None,
) -> list[Match]:
    """Find the `count` items of a sample that respond most to a direction.

    As in the notebook of the paper's authors, an item is ranked by the maximum over its positions.
    Equal items keep their order. `direction` is [1, in_features].
    """
    best: list[Match] = []
    done = 0
    for responses, _ in _responses(model, layer, direction, sample, compatibility):
        for each in responses:
            best.append(Match(done, float(each.max()), each))
            done += 1
        # The sort is stable. Only `count` items are kept, so that memory does not grow.
        best = sorted(best, key=lambda match: -match.score)[:count]
        progress(done, sample.count)
    return best


@torch.no_grad()
def share_above(
    model: Model,
    layer: str,
    direction: Tensor,
    threshold: float,
    sample: Sample,
    compatibility: Compatibility,
) -> float:
    """Compute the share of positions whose response is at least `threshold`.

    Positions count by their weights. `direction` is [1, in_features].
    """
    above = total = 0.0
    for responses, weight in _responses(model, layer, direction, sample, compatibility):
        above += float(weight[responses >= threshold].sum())
        total += float(weight.sum())
    return above / total


def _responses(
    model: Model, layer: str, direction: Tensor, sample: Sample, compatibility: Compatibility
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the responses and weights of all positions, batch by batch.

    Both are [batch, positions] float64.
    """
    for keys in keys_of_sample(model, layer, sample, compatibility):
        weight = _weight_of(keys)
        responses = respond(keys.values, direction[0]).double().cpu()
        yield responses.masked_fill(weight == 0, -torch.inf), weight


def _weight_of(keys: Keys) -> Tensor:
    if keys.weight is None:
        return torch.ones(keys.values.shape[:2], dtype=torch.float64)
    return keys.weight.double().cpu()
