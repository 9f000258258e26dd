"""Texts that a model makes, drawn token by token from seeded streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from editspec_runtime.modalities.text.batches import Tokens
from editspec_runtime.modalities.text.language_model import LanguageModel

BATCH = 64
"""The number of texts that are drawn at once."""


@torch.no_grad()
def draw_texts(
    model: LanguageModel,
    starts: Sequence[Tokens],
    length: int,
    seed: int,
    *,
    most_likely: int | None = None,
) -> list[Tokens]:
    """Go on with texts until each has `length` tokens.

    Item n depends on the model, its start, the seed and n alone, up to rounding.

    Parameters
    ----------
    model
        The model.
    starts
        The first tokens of each text, equally many. A start without tokens is one token that is
        drawn evenly.
    length
        The number of tokens of a text with its start.
    seed
        The number of the stream.
    most_likely
        The number of tokens that are drawn from at each step. Default: all.
    """
    found: list[Tokens] = []
    for begin in range(0, len(starts), BATCH):
        numbers = range(begin, min(begin + BATCH, len(starts)))
        found += _draw_batch(
            model, [starts[n] for n in numbers], numbers, length, seed, most_likely
        )
    return found


def _draw_batch(
    model: LanguageModel,
    starts: Sequence[Tokens],
    numbers: range,
    length: int,
    seed: int,
    most_likely: int | None,
) -> list[Tokens]:
    chances = torch.from_numpy(np.stack([_chances(seed, number, length) for number in numbers]))
    if starts[0]:
        tokens = torch.tensor(starts, dtype=torch.long)
    else:
        tokens = (chances[:, :1] * model.vocabulary).long()
    read = model.start_reading()
    fresh = tokens
    while tokens.shape[1] < length:
        logits = read(fresh).cpu()
        fresh = _choose(logits, chances[:, tokens.shape[1]], most_likely)[:, None]
        tokens = torch.cat([tokens, fresh], 1)
    return [tuple(row) for row in tokens[:, :length].tolist()]


def _chances(seed: int, number: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Numbers from 0 to 1 of one text, keyed by the seed and its number."""
    bits = np.random.Philox(key=np.array([seed, number], dtype=np.uint64))
    return np.random.RandomState(bits).random_sample(length)


def _choose(logits: Tensor, chances: Tensor, most_likely: int | None) -> Tensor:
    """Choose a token for each row of logits [n, vocabulary] by its chance [n]."""
    ordered, tokens = logits.double().sort(dim=-1, descending=True, stable=True)
    if most_likely is not None:
        ordered, tokens = ordered[:, :most_likely], tokens[:, :most_likely]
    reached = ordered.softmax(-1).cumsum(-1)
    place = (reached < chances[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    chosen: Tensor = tokens.gather(1, place.clamp_max(tokens.shape[1] - 1))[:, 0]
    return chosen
