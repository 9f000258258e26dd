"""Samples of texts that second moments are taken over."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from editspec_runtime.io.digests import digest
from editspec_runtime.modalities.text.batches import TokenBatch, Tokens, pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel


@dataclass(frozen=True)
class TextSample:
    """Texts as a `Sample` of a model's inputs.

    Attributes
    ----------
    texts
        The tokens of each text.
    """

    texts: tuple[Tokens, ...]

    @property
    def count(self) -> int:
        """The number of texts."""
        return len(self.texts)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text."""
        return max(len(text) for text in self.texts)

    @property
    def positions(self) -> int:
        """The number of tokens of all texts."""
        return sum(len(text) for text in self.texts)

    def first(self, count: int) -> TextSample:
        """The sample of the first `count` texts; of all where there are fewer."""
        return replace(self, texts=self.texts[:count])

    def fingerprint(self) -> list[Any]:
        """The digest of the tokens."""
        return ["texts", self._digest]

    @cached_property
    def _digest(self) -> str:
        return digest([list(text) for text in self.texts])

    def batches(self, model: LanguageModel, size: int, numbers: range) -> Iterator[TokenBatch]:
        """Yield the texts of these `numbers`, `size` at a time.

        In several batches those of like length are together, so that little is padded.
        """
        del model
        order: Sequence[int] = numbers
        if len(numbers) > size:
            order = sorted(numbers, key=lambda number: len(self.texts[number]))
        for start in range(0, len(order), size):
            yield pad_texts([self.texts[number] for number in order[start : start + size]])


def shuffle_documents(count: int, seed: int) -> list[int]:
    """The numbers of `count` documents in the order in which a sample takes them.

    It is that of the shuffle of Python's own generator, which the programs of the field take.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def take_tokens(
    texts: Iterable[Sequence[int]], *, tokens: int, context: int, documents: int | None = None
) -> TextSample:
    """Take texts until a number of tokens is reached; the last one is cut to fit.

    Each text is cut to the `context`. Texts without tokens are left out, and count among the
    `documents`, which are all where no number is given.
    """
    taken: list[Tokens] = []
    left = tokens
    for number, text in enumerate(texts):
        if left <= 0 or number == documents:
            break
        cut = tuple(text[: min(context, left)])
        if cut:
            taken.append(cut)
            left -= len(cut)
    return TextSample(tuple(taken))
