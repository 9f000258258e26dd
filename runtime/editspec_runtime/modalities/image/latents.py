"""The streams of latents: item n is the same whatever is asked before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editspec_runtime.core.compatibility import LEGACY_LENGTH
from editspec_runtime.errors import EditError


@dataclass(frozen=True)
class LatentStream:
    """A stream of standard normal latents.

    Attributes
    ----------
    seed
        Names the stream.
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

        Raises `EditError` for a number beyond the end of the ``numpy-legacy`` stream.
        """
        rows = (
            self._legacy(numbers)
            if self.sampler == "numpy-legacy"
            else [self._keyed(n) for n in numbers]
        )
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def _keyed(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        # RandomState, unlike Generator, promises never to change its stream; Philox takes the pair
        # as its key.
        bits = np.random.Philox(key=np.array([self.seed, number], dtype=np.uint64))
        return np.random.RandomState(bits).standard_normal(self.size)

    def _legacy(self, numbers: Sequence[int]) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        if max(numbers) >= LEGACY_LENGTH:
            raise EditError(
                f"Latent {max(numbers)} lies beyond the numpy-legacy stream, which ends at {LEGACY_LENGTH - 1}.",
                "Use the default sampler, whose items are drawn one by one.",
            )
        source = np.random.RandomState(self.seed)
        wanted = set(numbers)
        found = {}
        for number in range(max(numbers) + 1):
            row = source.standard_normal(self.size)
            if number in wanted:
                found[number] = row
        return [found[number] for number in numbers]
