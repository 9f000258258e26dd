"""Tokens of prompts as keys of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editspec_compiler.modalities.text_to_image.tokens import EncodedPrompt
from editspec_runtime.modalities.text_to_image.batches import join_prompts
from editspec_runtime.modalities.text_to_image.model import PromptedModel
from editspec_runtime.modalities.text_to_image.tokens import PromptTokens

ROWS = 64
"""The number of prompts that are encoded at once."""

Place = tuple[EncodedPrompt, int]
"""A token of a prompt, by its place."""


@torch.no_grad()
def find_keys(model: PromptedModel, places: Sequence[Place]) -> Tensor:
    """Compute the keys of tokens, [n, width].

    Each prompt is encoded once, cut behind the last token that is asked for: what follows a token
    does not reach its key. Prompts of one length are encoded together.
    """
    lengths: dict[PromptTokens, int] = {}
    for prompt, place in places:
        lengths[prompt.tokens] = max(lengths.get(prompt.tokens, 0), place + 1)
    by_length: dict[int, list[PromptTokens]] = {}
    for tokens, length in lengths.items():
        by_length.setdefault(length, []).append(tokens)
    wanted: dict[PromptTokens, list[tuple[int, int]]] = {}
    for row, (prompt, place) in enumerate(places):
        wanted.setdefault(prompt.tokens, []).append((row, place))
    found: Tensor | None = None
    for length, prompts in sorted(by_length.items()):
        for start in range(0, len(prompts), ROWS):
            some = prompts[start : start + ROWS]
            states = model.encode(join_prompts(some, length))
            if found is None:
                found = states.new_empty(len(places), states.shape[-1])
            for tokens, own in zip(some, states, strict=True):
                rows, at = zip(*wanted[tokens], strict=True)
                found[list(rows)] = own[list(at)]
    assert found is not None
    return found
