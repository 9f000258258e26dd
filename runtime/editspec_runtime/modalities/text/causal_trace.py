"""Causal traces: which states of a model bring its answer back once the subject is unknown.

The subject's embeddings are changed by noise, so that the model no longer knows whom it reads
about. Then one state of the undisturbed run is put back, and the probability of the answer says
how much of what was known lies in that state (Meng et al. 2022, "Locating and editing factual
associations in GPT").
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from editspec_runtime.modalities.text.batches import Tokens

NOISE = 3.0
"""The standard deviation of the noise, over that of the subjects' embeddings."""

SAMPLES = 10
"""The number of samples of noise that a trace is the mean of."""

SHARE = 5
"""Of how many blocks one is in the window of memories that are put back together."""

Change = Callable[[Tensor], Tensor]


class Blockwise(Protocol):
    """A model of texts that is run block by block."""

    @property
    @abstractmethod
    def block_count(self) -> int:
        """The number of blocks."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Compute the stream before the first block of tokens [n, positions]."""

    @abstractmethod
    def run_block(
        self, block: int, stream: Tensor, change: Change | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the stream behind a block and the value of its memory, [n, positions, width].

        `change` makes another value of the value before it is added to the stream.
        """

    @abstractmethod
    def next_logits(self, stream: Tensor) -> Tensor:
        """Compute the logits of the next token from the stream behind the last block."""


@dataclass(frozen=True)
class CausalTrace:
    """The probability of an answer where states are put back.

    Attributes
    ----------
    answer
        The token that the undisturbed model answers with.
    clean, corrupted
        Its probability undisturbed, and the mean of that under noise.
    memory
        That with the values of memories put back at one position, those of a window of blocks
        around each block, [blocks, positions].
    state
        That with the stream behind one block put back at one position, [blocks, positions].
    """

    answer: int
    clean: float
    corrupted: float
    memory: Tensor
    state: Tensor

    @property
    def lost(self) -> float:
        """The probability that the noise takes away."""
        return self.clean - self.corrupted

    def shares(self, kind: str) -> Tensor:
        """The share of what was lost that ``memory`` or ``state`` brings back, as they are."""
        found: Tensor = getattr(self, kind)
        return (found - self.corrupted) / self.lost


def window_of(blocks: int) -> int:
    """The number of blocks whose memories are put back together: 10 of 48, and 1 of 4."""
    return max(1, round(blocks / SHARE))


@torch.no_grad()
def subject_deviation(model: Blockwise, texts: Sequence[tuple[Tokens, Sequence[int]]]) -> float:
    """The standard deviation of the embeddings of subjects, given as tokens and their places."""
    parts = []
    for tokens, places in texts:
        parts.append(model.embed(torch.tensor([tokens]))[0, list(places)])
    return float(torch.cat(parts).double().std(correction=0))


@torch.no_grad()
def trace_causes(
    model: Blockwise, tokens: Tokens, places: Sequence[int], deviation: float, seed: int
) -> CausalTrace:
    """Trace where a model keeps what it answers a prompt with.

    Parameters
    ----------
    model, tokens
        The model, and the tokens of the prompt.
    places
        The places of the subject's tokens.
    deviation
        The standard deviation of the noise on their embeddings.
    seed
        The number of the noise's stream.
    """
    clean = _run(model, model.embed(torch.tensor([tokens])))
    answer = int(clean.chances[0].argmax())
    start = clean.before[0].expand(SAMPLES, -1, -1).clone()
    shape = (SAMPLES, len(places), start.shape[-1])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start[:, list(places)] += deviation * noise.to(start)
    noisy = _run(model, start)
    corrupted = float(noisy.chances[:, answer].mean())
    blocks, count, first = model.block_count, len(tokens), min(places)
    memory = torch.full((blocks, count), corrupted, dtype=torch.float64)
    state = memory.clone()
    # What lies before the subject is undisturbed: nothing is put back there.
    restored = torch.arange(first, count)
    half = window_of(blocks) // 2
    for block in range(blocks):
        after = _spread(noisy.before[block + 1], len(restored))
        after = _put_back(after, clean.before[block + 1], restored)
        state[block, first:] = _finish(model, after, block + 1, answer, len(restored))
        begin, end = max(0, block - half), min(blocks, block - half + window_of(blocks))
        stream = _spread(noisy.before[begin], len(restored))
        for inner in range(begin, end):
            put_back = partial(_put_back, known=clean.values[inner], restored=restored)
            stream, _ = model.run_block(inner, stream, put_back)
        memory[block, first:] = _finish(model, stream, end, answer, len(restored))
    return CausalTrace(answer, float(clean.chances[0, answer]), corrupted, memory, state)


@dataclass(frozen=True)
class _Run:
    """A run of a model.

    Attributes
    ----------
    before
        The stream before each block, and behind the last one.
    values
        The values of the memory of each block.
    chances
        The probabilities of the next token, [n, vocabulary] float64.
    """

    before: list[Tensor]
    values: list[Tensor]
    chances: Tensor


def _run(model: Blockwise, stream: Tensor) -> _Run:
    before, values = [stream], []
    for block in range(model.block_count):
        stream, value = model.run_block(block, stream)
        before.append(stream)
        values.append(value)
    return _Run(before, values, model.next_logits(stream).double().softmax(-1))


def _spread(stream: Tensor, count: int) -> Tensor:
    """Repeat a stream [n, positions, width] for each of `count` positions that are put back."""
    return stream.repeat(count, 1, 1)


def _put_back(stream: Tensor, known: Tensor, restored: Tensor) -> Tensor:
    """Put one position of an undisturbed stream back in each repetition."""
    changed = stream.clone().view(len(restored), -1, *stream.shape[1:])
    for row, place in enumerate(restored.tolist()):
        changed[row, :, place] = known[0, place]
    return changed.view(stream.shape)


def _finish(model: Blockwise, stream: Tensor, block: int, answer: int, count: int) -> Tensor:
    """Run the blocks from `block` on; the mean probability of the answer, [count]."""
    for later in range(block, model.block_count):
        stream, _ = model.run_block(later, stream)
    chances = model.next_logits(stream).double().softmax(-1)[:, answer]
    return chances.view(count, -1).mean(1).cpu()
