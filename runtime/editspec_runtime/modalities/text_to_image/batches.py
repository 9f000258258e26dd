"""Prompts as tokens, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime.modalities.text_to_image.tokens import PromptTokens


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts of equal length.

    Attributes
    ----------
    tokens
        The numbers of tokens for each text encoder, [n, positions].
    """

    tokens: tuple[Tensor, ...]


def join_prompts(prompts: Sequence[PromptTokens], length: int | None = None) -> PromptBatch:
    """Make a batch of prompts, cut to a `length`.

    What follows a token does not reach its key, so that a prompt may be cut behind the last token
    that is asked for.
    """
    tokens = []
    for encoder in zip(*prompts, strict=True):
        tokens.append(torch.tensor([row[:length] for row in encoder], dtype=torch.long))
    return PromptBatch(tuple(tokens))
