"""Where a key matches: the items and positions of a sample at which a layer sees a direction."""

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
    """One item that matches.

    Attributes
    ----------
    item
        Its number in the sample.
    score
        The most that any of its positions has of the direction.
    responses
        How much each of its positions has, [positions] float64; minus infinity for padding.
    """

    item: int
    score: float
    responses: Tensor


def respond(keys: Tensor, direction: Tensor) -> Tensor:
    """How much each key has of a direction: [n, positions] of keys [n, positions, in_features].

    With C^-1 k as the direction [in_features], this says where a key k matches.
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
    """Find the `count` items of a sample whose best position has most of a direction.

    As in the notebook of the paper's authors, an item is ranked by the maximum over its positions;
    of equal ones the first comes first. `direction` is [1, in_features].
    """
    best: list[Match] = []
    done = 0
    for responses, _ in _responses(model, layer, direction, sample, compatibility):
        for each in responses:
            best.append(Match(done, float(each.max()), each))
            done += 1
        # A stable sort: of equal ones the first stays first. No more are kept than are wanted.
        best = sorted(best, key=lambda match: -match.score)[:count]
        progress(done, sample.count)
    return best


@torch.no_grad()
def exceeding(
    model: Model,
    layer: str,
    direction: Tensor,
    threshold: float,
    sample: Sample,
    compatibility: Compatibility,
) -> float:
    """The share of all positions of a sample that have at least `threshold` of a direction.

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
    """Yield responses and weights of all positions, batch by batch: [batch, positions] float64."""
    for keys in keys_of_sample(model, layer, sample, compatibility):
        weight = _weight_of(keys)
        responses = respond(keys.values, direction[0]).double().cpu()
        yield responses.masked_fill(weight == 0, -torch.inf), weight


def _weight_of(keys: Keys) -> Tensor:
    if keys.weight is None:
        return torch.ones(keys.values.shape[:2], dtype=torch.float64)
    return keys.weight.double().cpu()
