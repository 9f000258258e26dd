"""Texts as tokens, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tokens = tuple[int, ...]
"""The numbers of the tokens of a text."""


@dataclass(frozen=True)
class TokenBatch:
    """A batch of texts, padded on the right.

    Attributes
    ----------
    tokens
        The numbers of tokens, [n, positions]; 0 where there is none.
    lengths
        The number of tokens of each text, [n].
    """

    tokens: Tensor
    lengths: Tensor

    @property
    def filled(self) -> Tensor:
        """Whether there is a token at a position, [n, positions]."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]


def pad_texts(texts: Sequence[Sequence[int]], device: torch.device | None = None) -> TokenBatch:
    """Make a batch of texts, each at least one token long."""
    lengths = [len(text) for text in texts]
    tokens = torch.zeros(len(texts), max(lengths), dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text, dtype=torch.long)
    return TokenBatch(tokens.to(device), torch.tensor(lengths, device=device))
