"""Samples of prompts that second moments are taken over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from editspec_runtime.io.digests import digest
from editspec_runtime.modalities.text_to_image.batches import PromptBatch, join_prompts
from editspec_runtime.modalities.text_to_image.tokens import PromptTokens


@dataclass(frozen=True)
class PromptSample:
    """Prompts as a `Sample` of a model's inputs, which is `Regularised`.

    Attributes
    ----------
    prompts
        The tokens of each prompt, padded to the length that the text encoder reads.
    ridge, share
        C is ridge I + share E[k k^T] over all tokens of the prompts.
    """

    prompts: tuple[PromptTokens, ...]
    ridge: float
    share: float

    @property
    def count(self) -> int:
        """The number of prompts."""
        return len(self.prompts)

    @property
    def longest(self) -> int:
        """The number of tokens of a prompt."""
        return max((len(prompt[0]) for prompt in self.prompts), default=1)

    @property
    def positions(self) -> int:
        """The number of tokens of all prompts."""
        return sum(len(prompt[0]) for prompt in self.prompts)

    def first(self, count: int) -> PromptSample:
        """The sample of the first `count` prompts; of all where there are fewer."""
        return replace(self, prompts=self.prompts[:count])

    def fingerprint(self) -> list[Any]:
        """The digest of the tokens, and the numbers beside them."""
        return ["prompts", self._digest, self.ridge, self.share]

    @cached_property
    def _digest(self) -> str:
        return digest([[list(tokens) for tokens in prompt] for prompt in self.prompts])

    def batches(self, model: Any, size: int, numbers: range) -> Iterator[PromptBatch]:
        """Yield the prompts of these `numbers`, `size` at a time."""
        del model
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            yield join_prompts([self.prompts[number] for number in chosen])
