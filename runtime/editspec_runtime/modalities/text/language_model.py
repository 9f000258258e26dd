"""The protocol of a model that goes on with texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from editspec_runtime.core.model import Model, Trace
from editspec_runtime.modalities.text.batches import TokenBatch


class Continuation(Protocol):
    """What follows when the values at the first positions of suffixes are shifted."""

    @abstractmethod
    def __call__(self, shift: Tensor) -> Tensor:
        """Compute the residual stream behind the last block, [n, suffix, width].

        `shift` [width] or [n, 1, width] is added to the value at the first position of each suffix.
        """

    @abstractmethod
    def logits(self, stream: Tensor) -> Tensor:
        """Compute logits [..., vocabulary] from that stream, or from some of its positions."""


@dataclass(frozen=True)
class Suffix:
    """The ends of texts, from a position on at which a value of a layer changes.

    Attributes
    ----------
    key, value
        Key and value of the layer at the first position, [n, in] and [n, out].
    block_output
        The residual stream behind the layer's block there, [n, width].
    continuation
        What follows from another value there. Positions before are not computed again.
    """

    key: Tensor
    value: Tensor
    block_output: Tensor
    continuation: Continuation


class LanguageModel(Model, Protocol):
    """A model of texts, whose outputs are logits of the next token."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""

    @property
    def context(self) -> int:
        """The number of positions that a text may have."""

    @property
    def adds_values(self) -> bool:
        """Whether values are added to the residual stream as they are."""

    def block_output(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        """Compute the residual stream behind the block of a layer, [n, positions, width]."""

    def start_reading(self) -> Callable[[Tensor], Tensor]:
        """Start to read texts piece by piece.

        The function takes the next tokens of all texts [n, positions], and returns the logits of
        the token after them, [n, vocabulary].
        """

    def suffix(self, layer: str, batch: TokenBatch, starts: Tensor) -> Suffix:
        """Prepare the computation of what follows when values change at positions `starts` [n]."""
