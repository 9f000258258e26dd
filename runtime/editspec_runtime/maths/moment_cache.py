"""Second moments of a sample, computed in blocks and cached by content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.executor import IN_PROCESS, Executor, map_cached
from editspec_runtime.core.model import Keys, Model
from editspec_runtime.core.sample import Regularised, Sample
from editspec_runtime.errors import NumericalError, OutOfMemory, translate_memory_errors
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.moments import SecondMoment, SecondMomentEstimator
from editspec_runtime.maths.parallel import count_threads, map_parts, unshared_operations
from editspec_runtime.maths.sampled_keys import (
    forward_batch,
    items_in_pass,
    key_inputs,
    key_reader,
    models_for_batches,
    most_tiles,
    numbers_per_item,
    share_by_model,
)

Progress = Callable[[int, int], None]
"""A callback that takes the number of items done and of all items."""

BATCHES, MOST_BLOCKS = 16, 1024
"""The least number of forward batches in a block, and the largest number of blocks."""

LARGEST_SUMS = 2**24
"""The largest amount of numbers in the sums of a batch that are kept apart from those of others.

Of a layer of more features one batch is computed at a time, whatever the number of threads, and is
added to the sums of its block as it comes: sums of gigabytes would be written and read each time.
"""

MAPS = 4
"""The number of maps of the largest size that a process may hold while it computes a batch."""


def ignore_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class CachedMoment(SecondMoment):
    """A second moment, and whether it comes from the cache.

    Attributes
    ----------
    cached
        Whether the second moment was found in the cache.
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
    """Find the second moment of the keys of `layer` in the cache, or compute it.

    The name in the cache depends on everything upstream of the layer, so that edits of this layer
    and of later ones reuse the second moment. During the computation the sums of its blocks are
    cached, so that the work of a run that was killed is not repeated.

    When memory runs out, one batch is computed at a time. When it still runs out, keys are split
    into 2, 4, … tiles before the batch is halved. If the place
    in a batch changes the numbers, the batch is never halved. Tiles and batches may give other
    bits, and are part of the name in the cache.

    Parameters
    ----------
    executor
        The executor that computes the blocks. The bits do not depend on it. Default: this process.

    Raises
    ------
    OutOfMemory
        Not even the smallest part fits into memory.
    """
    batch, tiles = forward_batch(model, layer, sample, compatibility), 1
    alone = model.weight(layer).is_cuda
    while True:
        blocks = Blocks(model, layer, sample, batch, cache, tiles, progress, executor, alone)
        try:
            tensors, cached = cache.tensors("statistics", blocks.key, blocks.result)
            break
        except OutOfMemory:
            # The bits must not depend on how many batches were computed at once.
            if not alone and sample.count > batch and count_threads() > 1:
                alone = True
            elif 2 * tiles <= most_tiles(model, layer):
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
    """Find the second moment in the cache; None if it is not there.

    Only one that was computed without a shortage of memory is found.
    """
    batch = forward_batch(model, layer, sample, compatibility)
    found = cache.find("statistics", Blocks(model, layer, sample, batch, cache).key)
    if found is None:
        return None
    return SecondMoment(found["second_moment"], float(found["weight"]))


@dataclass(frozen=True)
class Blocks:
    """The sums of a second moment, block by block of the sample.

    A block is the unit that is spread over processes, and that is cached until all blocks are done.
    Its number of forward batches follows from the sample alone. Several batches are computed
    at once, each by one thread, unless they are to be computed `alone`. They are added up in order,
    and so are the blocks. Neither depends on the number of threads or processes, and so C does not.
    """

    model: Model
    layer: str
    sample: Sample
    batch: int
    cache: Cache
    tiles: int = 1
    progress: Progress = ignore_progress
    executor: Executor = IN_PROCESS
    alone: bool = False

    @cached_property
    def size(self) -> int:
        """The number of items in a block."""
        return self.batch * max(BATCHES, -(-self.sample.count // (self.batch * MOST_BLOCKS)))

    @cached_property
    def key(self) -> str:
        """The name of the second moment in the cache."""
        inputs = key_inputs(self.model, self.layer, self.sample, self.batch)
        inputs["block"] = self.size
        if self.tiles > 1:
            inputs["tiles"] = self.tiles
        return digest(inputs)

    def starts(self) -> range:
        """The number of the first item of each block."""
        return range(0, self.sample.count, self.size)

    def result(self) -> dict[str, Tensor]:
        """Compute the tensors of the cache's entry: C, and the weight of its keys."""
        sample, matrix, weight = self.sample, None, 0.0
        if sample.count:
            moment = self.estimate()
            matrix, weight = moment.matrix, moment.weight
        if isinstance(sample, Regularised):
            ridge = sample.ridge * torch.eye(self._features(), dtype=torch.float64)
            matrix = ridge if matrix is None else ridge + sample.share * matrix.cpu()
        if matrix is None:
            raise NumericalError("The sample has no items.", "Give a sample with items.")
        return {"second_moment": matrix, "weight": torch.tensor(weight, dtype=torch.float64)}

    def estimate(self) -> SecondMoment:
        """Compute the second moment of all blocks."""
        estimator: SecondMomentEstimator | None = None
        for start, sums in zip(self.starts(), self._sums(), strict=True):
            if estimator is None:
                estimator = SecondMomentEstimator.from_sums(sums)
            else:
                estimator.add(sums)
            # In this process, it was called batch by batch.
            self.progress(min(start + self.size, self.sample.count), self.sample.count)
        assert estimator is not None
        return estimator.estimate()

    def _sums(self) -> Iterator[Tensor]:
        """Yield the sums of the blocks in order."""
        starts = self.starts()
        if len(starts) == 1:
            yield self(0)["sums"]
            return
        named = {self._name(start): start for start in starts}
        for block in map_cached(
            self.executor,
            self.cache,
            "blocks",
            self,
            named,
            self._device(),
            memory=self._memory(),
            threaded=True,
        ):
            yield block["sums"]

    def _memory(self) -> int:
        """The bytes that a block needs besides the model: maps of a batch, and sums."""
        maps = self.batch * numbers_per_item(self.model, self.layer, self.sample.longest)
        return MAPS * 8 * maps // self.tiles + 3 * 8 * self._features() ** 2

    def forget(self) -> None:
        """Remove the blocks from the cache, once C is there."""
        for start in self.starts():
            self.cache.remove("blocks", self._name(start))

    @torch.no_grad()
    def __call__(self, start: int) -> dict[str, Tensor]:
        """Compute the block that begins at item `start`.

        Its tensor ``sums`` is that of `SecondMomentEstimator`, on the CPU.
        """
        end = min(start + self.size, self.sample.count)
        starts = range(start, end, self.batch)
        estimator = self._estimator(self._device())
        split = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        what = f"The statistics of {self.layer}, {self.batch} items at a time{split},"
        add = self._add_as_they_come if self._sums_are_large() else self._add_apart
        with translate_memory_errors(what):
            for begin in add(estimator, starts):
                self.progress(min(begin + self.batch, end), self.sample.count)
        return {"sums": estimator.sums.cpu()}

    def _sums_are_large(self) -> bool:
        return self._features() ** 2 > LARGEST_SUMS

    def _add_apart(self, estimator: SecondMomentEstimator, starts: range) -> Iterator[int]:
        """Add the sums of batches, several of which are computed at once; yield their starts."""
        for begin, sums in zip(starts, map_parts(self._readers(starts), starts), strict=True):
            estimator.add(sums)
            yield begin

    def _add_as_they_come(self, estimator: SecondMomentEstimator, starts: range) -> Iterator[int]:
        """Add the keys of batches, one of which is computed at a time; yield their starts."""
        read = key_reader(self.model, self.layer, self.tiles)
        for begin in starts:
            with unshared_operations():
                self._add_batch(estimator, self.model, read, begin)
            yield begin

    def _readers(self, starts: range) -> list[Callable[[int], Tensor]]:
        """Functions from the first item of a batch to its sums, one for each thread."""
        count = 1 if self.alone else len(starts)
        models = models_for_batches(self.model, self.layer, self.sample, self.batch, count)
        return share_by_model(models, self._reader)

    def _reader(self, model: Model) -> Callable[[int], Tensor]:
        read = key_reader(model, self.layer, self.tiles)

        def sum_batch(start: int) -> Tensor:
            """Compute `SecondMomentEstimator.sums` of the batch that begins at item `start`."""
            estimator = self._estimator(self._device())
            self._add_batch(estimator, model, read, start)
            return estimator.sums

        return sum_batch

    def _add_batch(
        self,
        estimator: SecondMomentEstimator,
        model: Model,
        read: Callable[[Any], Iterator[Keys]],
        start: int,
    ) -> None:
        """Add the keys of the batch that begins at item `start`."""
        numbers = range(start, min(start + self.batch, self.sample.count))
        size = items_in_pass(model, self.layer, self.sample, self.batch)
        for batch in self.sample.batches(model, size, numbers):
            for keys in read(batch):
                estimator.update(keys.values, keys.weight)
                del keys  # frees the memory before the next tile is computed

    def _estimator(self, device: torch.device | None = None) -> SecondMomentEstimator:
        return SecondMomentEstimator(self._features(), device)

    def _features(self) -> int:
        return self.model.architecture.layers[self.layer].in_features

    def _name(self, start: int) -> str:
        """The name of a block in the cache."""
        return f"{self.key}-{start}"

    def _device(self) -> torch.device:
        """The device of the model."""
        return self.model.weight(self.layer).device

    def __getstate__(self) -> dict[str, Any]:
        """The state that travels to another process: all but the progress callback."""
        return {**self.__dict__, "progress": ignore_progress}
