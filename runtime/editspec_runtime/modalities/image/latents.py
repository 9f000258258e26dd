"""Streams of latents, whose items do not depend on one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.image.compatibility import LEGACY_LENGTH
from editspec_runtime.modalities.image.generator import Generator


@dataclass(frozen=True)
class LatentStream:
    """A stream of standard normal latents.

    Attributes
    ----------
    seed
        The number of the stream.
    size
        Numbers in a latent.
    sampler
        ``keyed``: item n comes from a generator keyed by (seed, n) alone. ``numpy-legacy``: item n
        is row n of ``RandomState(seed).standard_normal((n + 1) * size)``, the authors' stream.
    """

    seed: int
    size: int
    sampler: str = "keyed"

    def items(self, numbers: Sequence[int]) -> Tensor:
        """The latents of these numbers, [len(numbers), size] float32.

        Raises `UsageError` for a number beyond the end of the ``numpy-legacy`` stream.
        """
        if self.sampler == "numpy-legacy":
            rows = self._draw_legacy(numbers)
        else:
            rows = [self._draw_keyed(number) for number in numbers]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def _draw_keyed(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        # RandomState, unlike Generator, promises never to change its stream; Philox takes the pair
        # as its key.
        bits = np.random.Philox(key=np.array([self.seed, number], dtype=np.uint64))
        return np.random.RandomState(bits).standard_normal(self.size)

    def _draw_legacy(
        self, numbers: Sequence[int]
    ) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        if max(numbers) >= LEGACY_LENGTH:
            raise UsageError(
                f"Latent {max(numbers)} lies beyond the numpy-legacy stream, which ends at "
                f"{LEGACY_LENGTH - 1}.",
                "Use the default sampler, whose items are drawn one by one.",
            )
        # Rows are drawn one by one, and only those that are wanted are kept: the whole stream may
        # not fit into memory.
        source = np.random.RandomState(self.seed)
        wanted = set(numbers)
        found = {}
        for number in range(max(numbers) + 1):
            row = source.standard_normal(self.size)
            if number in wanted:
                found[number] = row
        return [found[number] for number in numbers]


@dataclass(frozen=True)
class LatentSample:
    """The first items of a stream of latents, as a `Sample` of a generator's inputs."""

    stream: LatentStream
    count: int

    @property
    def longest(self) -> None:
        """None, as the layers of generators say how many positions they have."""
        return None

    @property
    def positions(self) -> None:
        """None, for the same reason."""
        return None

    def first(self, count: int) -> LatentSample:
        """The sample of the first `count` items; of all where there are fewer."""
        return replace(self, count=min(count, self.count))

    def fingerprint(self) -> list[Any]:
        """The sampler, the seed, the length of a latent and the number of items."""
        return [self.stream.sampler, self.stream.seed, self.stream.size, self.count]

    def batches(self, model: Generator, size: int, numbers: range) -> Iterator[Tensor]:
        """Yield the latents of these `numbers`, `size` at a time, as `model` takes them."""
        for start in range(0, len(numbers), size):
            yield model.to_model(self.stream.items(numbers[start : start + size]))
