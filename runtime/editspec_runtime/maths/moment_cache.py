"""Second moments of a sample: computed in blocks, spread over processes, cached by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.executor import IN_PROCESS, Executor
from editspec_runtime.core.model import Model
from editspec_runtime.core.sample import Sample
from editspec_runtime.errors import OutOfMemory, naming_memory
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.moments import SecondMoment, SecondMomentEstimator
from editspec_runtime.maths.sampled_keys import (
    forward_batch,
    key_inputs,
    key_reader,
    most_tiles,
)

Progress = Callable[[int, int], None]
"""Called with (done, of all)."""

BATCHES, MOST_BLOCKS = 16, 1024
"""Forward batches in a block of the sample, at the least; blocks of a sample, at the most."""


def ignore_progress(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class CachedMoment(SecondMoment):
    """A second moment, and where it is from.

    Attributes
    ----------
    cached
        Whether it was found in the cache.
    """

    cached: bool


def second_moment(
    model: Model,
    layer: str,
    sample: Sample,
    compatibility: Compatibility,
    cache: Cache,
    progress: Progress = ignore_progress,
    executor: Executor = IN_PROCESS,
) -> CachedMoment:
    """The second moment of the keys of `layer` over a sample, from the cache or computed.

    It is cached by everything upstream of the layer, so that an edit of this layer or of a later
    one reuses it. While it is computed, the sums of its blocks are cached: what a run that was
    killed has done is not done again.

    When memory runs out, keys are split into 2, 4, … tiles before the batch is halved. Where the
    place in a batch counts, the batch stays as it is. Tiles and batches may give other bits, and
    are in the name in the cache.

    Parameters
    ----------
    executor
        Where the blocks are computed; the bits do not depend on it. Default: this process.

    Raises
    ------
    OutOfMemory
        Nothing fits into memory.
    """
    batch, tiles = forward_batch(model, layer, sample, compatibility), 1
    while True:
        blocks = Blocks(model, layer, sample, batch, cache, tiles, progress, executor)
        try:
            tensors, cached = cache.tensors("statistics", blocks.key, blocks.result)
            break
        except OutOfMemory:
            if 2 * tiles <= most_tiles(model, layer):
                tiles *= 2
            elif batch > 1 and not compatibility.fixed_chunk:
                batch //= 2
            else:
                raise
    if not cached:
        blocks.forget()
    return CachedMoment(tensors["second_moment"], float(tensors["weight"]), cached)


def find_second_moment(
    model: Model, layer: str, sample: Sample, compatibility: Compatibility, cache: Cache
) -> SecondMoment | None:
    """The second moment where it is in the cache, computed without a shortage of memory."""
    batch = forward_batch(model, layer, sample, compatibility)
    found = cache.find("statistics", Blocks(model, layer, sample, batch, cache).key)
    if found is None:
        return None
    return SecondMoment(found["second_moment"], float(found["weight"]))


@dataclass(frozen=True)
class Blocks:
    """The sums of a second moment, block by block of the sample.

    A block is what is spread over processes, and kept until all is there: a number of forward
    batches that follows from the sample alone. Its batches are added up in order, and so are the
    blocks. Neither depends on how many processes there are, and so C does not.
    """

    model: Model
    layer: str
    sample: Sample
    batch: int
    cache: Cache
    tiles: int = 1
    progress: Progress = ignore_progress
    executor: Executor = IN_PROCESS

    @cached_property
    def size(self) -> int:
        """Items in a block."""
        return self.batch * max(BATCHES, -(-self.sample.count // (self.batch * MOST_BLOCKS)))

    @cached_property
    def key(self) -> str:
        """The name of C in the cache."""
        inputs = key_inputs(self.model, self.layer, self.sample, self.batch)
        inputs["block"] = self.size
        if self.tiles > 1:
            inputs["tiles"] = self.tiles
        return digest(inputs)

    def starts(self) -> range:
        """The first items of all blocks."""
        return range(0, self.sample.count, self.size)

    def result(self) -> dict[str, Tensor]:
        """The tensors of the entry of the cache: C, and the weight of its keys."""
        moment = self.estimate()
        weight = torch.tensor(moment.weight, dtype=torch.float64)
        return {"second_moment": moment.matrix, "weight": weight}

    def estimate(self) -> SecondMoment:
        """The second moment of all blocks."""
        estimator = self._estimator()
        sums = self.executor.map(self, self.starts(), self._device())
        for start, block in zip(self.starts(), sums, strict=True):
            estimator.add(block)
            if self.executor.workers > 1:  # one alone tells it batch by batch
                self.progress(min(start + self.size, self.sample.count), self.sample.count)
        return estimator.estimate()

    def __call__(self, start: int) -> Tensor:
        """The `SecondMomentEstimator.sums` of the block that begins at item `start`."""
        if len(self.starts()) == 1:
            return self._compute(start)
        name = self._name(start)
        tensors, _ = self.cache.tensors("blocks", name, lambda: {"sums": self._compute(start)})
        return tensors["sums"].to(self._device())

    def forget(self) -> None:
        """Remove the blocks, once C is kept, from the caches of all processes.

        These may be several caches.
        """
        if len(self.starts()) == 1:
            return
        names = [self._name(start) for start in self.starts()]
        remove = partial(_remove_blocks, self.cache)
        workers = self.executor.workers
        removed = self.executor.map(remove, [names] * workers, self._device())
        assert len(list(removed)) == workers

    @torch.no_grad()
    def _compute(self, start: int) -> Tensor:
        numbers = range(start, min(start + self.size, self.sample.count))
        estimator = self._estimator(self._device())
        done = start
        split = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        what = f"The statistics of {self.layer}, {self.batch} items at a time{split},"
        with naming_memory(what):
            read = key_reader(self.model, self.layer, self.tiles)
            for batch in self.sample.batches(self.model, self.batch, numbers):
                for keys in read(batch):
                    estimator.update(keys.values, keys.weight)
                    del keys  # not held while the next tile is computed
                done = min(done + self.batch, numbers.stop)
                self.progress(done, self.sample.count)
        return estimator.sums

    def _estimator(self, device: torch.device | None = None) -> SecondMomentEstimator:
        return SecondMomentEstimator(self._features(), device)

    def _features(self) -> int:
        return self.model.architecture.layers[self.layer].in_features

    def _name(self, start: int) -> str:
        """The name of a block in the cache."""
        return f"{self.key}-{start}"

    def _device(self) -> torch.device:
        """Where the model is."""
        return self.model.weight(self.layer).device

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: the work, and nobody to tell."""
        return {**self.__dict__, "progress": ignore_progress}


def _remove_blocks(cache: Cache, names: Sequence[str]) -> None:
    """Remove blocks from a cache."""
    for name in names:
        cache.remove("blocks", name)
