"""The second moment C = E[k k^T] of a layer's keys (paper section 3.3), accumulated and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from editspec_runtime import NUMERICS, __version__
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.errors import OutOfMemory, naming_memory
from editspec_runtime.executors.processes import processes, spread
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

Progress = Callable[[int, int], None]
"""Called with (done, of all)."""


@dataclass(frozen=True)
class SecondMoment:
    """C = E[k k^T] over all positions of `samples` latents, not centred.

    Attributes
    ----------
    matrix
        [in_channels, in_channels] float64, symmetric.
    cached
        Whether it was found in the cache.
    """

    matrix: Tensor
    cached: bool


def second_moment(
    generator: Generator,
    layer: str,
    stream: LatentStream,
    samples: int,
    conventions: Compatibility,
    cache: Cache,
    progress: Progress = lambda done, total: None,
) -> SecondMoment:
    """The second moment of the keys of `layer` over items 0 … samples - 1 of `stream`.

    It is cached by everything upstream of the layer, so that an edit of this layer or of a later
    one reuses it. While it is computed, the sums of its blocks are: what a run that was killed has
    done is not done again.

    Where a forward batch does not fit into memory, its maps are split into 2, 4, … tiles of rows.
    Where the smallest tiles do not fit either, the batch is halved as well, but not where noise
    goes by the place in it. Tiles and batches may give other bits, and are in the key.

    Raises `OutOfMemory` where nothing fits.
    """
    batch, tiles = forward_batch(generator, layer, conventions), 1
    while True:
        blocks = _Blocks(
            generator, layer, stream, samples, conventions, batch, cache, progress, tiles
        )
        try:
            tensors, cached = cache.tensors("statistics", blocks.key, blocks.result)
            break
        except OutOfMemory:
            if 2 * tiles <= generator.most_tiles(layer):
                tiles *= 2
            elif batch > 1 and not conventions.positional_noise:
                batch //= 2
            else:
                raise
    if not cached:
        blocks.forget()
    return SecondMoment(tensors["second_moment"], cached)


def second_moment_key(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Compatibility
) -> str:
    """The name of a second moment in the cache: the digest of everything that it depends on."""
    batch = forward_batch(generator, layer, conventions)
    return _Blocks(
        generator, layer, stream, samples, conventions, batch, default_cache(), _silent
    ).key


LARGEST_MAPS = 2**26
"""Numbers that the maps of one layer may have in a forward batch: StyleGAN2 at 1024 x 1024 then
fits into 6 GB.
"""

BATCHES, MOST_BLOCKS = 16, 1024
"""Forward batches in a block of the sample, at the least; blocks of a sample, at the most."""

SLICE, SLICE_OF_A_GPU, TILE = 2**17, 2**25, 128
"""Numbers of keys that are squared at a time, to stay in the caches of a CPU and to fill a GPU; how
many channels.
"""

KEPT_KEYS = 2**24
"""Numbers that the keys of a few latents may have to be kept: 64 MiB."""

SAMPLED_KEYS = 65_536
"""Keys that the quantiles of units are taken from."""


def key_sample(
    generator: Generator,
    layer: str,
    stream: LatentStream,
    samples: int,
    conventions: Compatibility,
    cache: Cache,
) -> Tensor:
    """Keys of `layer` spread evenly over the positions of items 0 … samples - 1, [p, in_channels],
    columns sorted.

    At most `SAMPLED_KEYS` of them; cached as `second_moment` is.
    """
    key = digest(
        _inputs(generator, layer, stream, samples, forward_batch(generator, layer, conventions))
    )

    def compute() -> dict[str, Tensor]:
        positions = generator.layer(layer).positions
        stride = -(-samples * positions // SAMPLED_KEYS)
        chunks = [
            rows[::stride].cpu() for rows in _keys(generator, layer, stream, samples, conventions)
        ]
        return {"keys": torch.cat(chunks).sort(0).values}

    return cache.tensors("quantiles", key, compute)[0]["keys"]


def environment(generator: Generator) -> list[str]:
    """What bits may depend on beside the inputs: software, kind of device, number of threads."""
    weight = next(iter(generator.weights.values()))
    device = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "cpu"
    return [
        f"{__version__}/{NUMERICS}",
        torch.__version__,
        device,
        str(weight.dtype),
        str(torch.get_num_threads()),
    ]


def _inputs(
    generator: Generator, layer: str, stream: LatentStream, samples: int, batch: int
) -> dict[str, object]:
    """Everything that the keys of a sample depend on."""
    return {
        "layer": layer,
        "upstream": tensors_digest(generator.upstream(layer)),
        "generator": generator.settings(),
        "latents": [stream.sampler, stream.seed, stream.size, samples],
        "chunk": batch,
        "environment": environment(generator),
    }


@torch.no_grad()
def key_maps(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Compatibility
) -> Iterator[Tensor]:
    """The key maps of items 0 … samples - 1, chunk by chunk: [chunk, in_channels, key_size,
    key_size].
    """
    yield from _key_maps(
        generator, layer, stream, range(samples), forward_batch(generator, layer, conventions)
    )


def kept_key_maps(
    generator: Generator,
    layer: str,
    stream: LatentStream,
    samples: int,
    conventions: Compatibility,
    cache: Cache,
) -> Iterator[Tensor]:
    """The same, kept in the cache where they are small: then a rule is judged without the model up
    to its layer.
    """
    batch = forward_batch(generator, layer, conventions)
    if samples * generator.layer(layer).key_numbers > KEPT_KEYS:
        yield from key_maps(generator, layer, stream, samples, conventions)
        return

    def compute() -> dict[str, Tensor]:
        # In the order of memory in which they come back from the cache, as another gives other
        # bits.
        return {
            "keys": torch.cat(
                list(key_maps(generator, layer, stream, samples, conventions))
            ).contiguous()
        }

    keys, _ = cache.tensors(
        "keys", digest(_inputs(generator, layer, stream, samples, batch)), compute
    )
    yield from torch.split(keys["keys"].to(generator.weight(layer).device), batch)


def _key_maps(
    generator: Generator, layer: str, stream: LatentStream, numbers: range, batch: int
) -> Iterator[Tensor]:
    """The same of some `numbers` of the stream, `batch` by batch."""
    yield from map(generator.keys(layer), _batches(generator, stream, numbers, batch))


def _batches(
    generator: Generator, stream: LatentStream, numbers: range, batch: int
) -> Iterator[Tensor]:
    """Some `numbers` of the stream, `batch` by batch."""
    for start in range(0, len(numbers), batch):
        yield generator.fitted(stream.items(numbers[start : start + batch]))


def forward_batch(generator: Generator, layer: str, conventions: Compatibility) -> int:
    """Latents per forward batch up to `layer`: a chunk of the conventions, or less where its maps
    would be very large.

    It follows from the model alone, as other batches give other bits. Where noise goes by the place
    in the batch, as with the paper's authors, the batch is part of the numbers and stays as it is.
    """
    if conventions.positional_noise:
        return conventions.statistics_chunk
    layers = list(generator.architecture.layers.values())
    before = layers[: layers.index(generator.layer(layer)) + 1]
    largest = max(
        max(each.in_channels * each.key_size**2, each.out_channels * each.value_size**2)
        for each in before
    )
    return max(1, min(conventions.statistics_chunk, LARGEST_MAPS // largest))


def _keys(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Compatibility
) -> Iterator[Tensor]:
    """The keys of all positions, chunk by chunk: [positions, in_channels]."""
    for key in key_maps(generator, layer, stream, samples, conventions):
        yield key.movedim(1, -1).reshape(-1, key.shape[1])


@dataclass(frozen=True)
class _Blocks:
    """The sum of k k^T, block by block of the sample: what is spread over processes, and kept until
    all is there.

    A block is a number of forward batches that follows from the sample alone. Its batches are added
    up in order, and so are the blocks; neither depends on how many processes there are, and so C
    does not.
    """

    generator: Generator
    layer: str
    stream: LatentStream
    samples: int
    conventions: Compatibility
    batch: int
    cache: Cache
    progress: Progress
    tiles: int = 1

    @cached_property
    def size(self) -> int:
        """Latents in a block."""
        return self.batch * max(BATCHES, -(-self.samples // (self.batch * MOST_BLOCKS)))

    @cached_property
    def key(self) -> str:
        """The name of C in the cache."""
        inputs = _inputs(self.generator, self.layer, self.stream, self.samples, self.batch) | {
            "block": self.size
        }
        return digest(inputs if self.tiles == 1 else inputs | {"tiles": self.tiles})

    def starts(self) -> range:
        """The first latents of all blocks."""
        return range(0, self.samples, self.size)

    def result(self) -> dict[str, Tensor]:
        """What is kept of them: C."""
        return {"second_moment": self.mean()}

    def mean(self) -> Tensor:
        """C [n, n] float64."""
        total = torch.zeros(()).double()
        for start, block in zip(
            self.starts(), spread(self, self.starts(), self.device()), strict=True
        ):
            total = total + block.cpu()
            if processes() > 1:  # one alone tells it batch by batch
                self.progress(min(start + self.size, self.samples), self.samples)
        mean = total / (self.samples * self.generator.layer(self.layer).positions)
        return mean.triu() + mean.triu(1).T

    def __call__(self, start: int) -> Tensor:
        """The sum of the block that begins at latent `start`, [n, n] float64; below the diagonal it
        is not made out.
        """
        if len(self.starts()) == 1:
            return self.sum(start)
        tensors, _ = self.cache.tensors(
            "blocks", self.name(start), lambda: {"sum": self.sum(start)}
        )
        return tensors["sum"].to(self.device())

    @torch.no_grad()
    def sum(self, start: int) -> Tensor:
        """The same, computed."""
        numbers = range(start, min(start + self.size, self.samples))
        channels = self.generator.layer(self.layer).in_channels
        total = torch.zeros(channels, channels, dtype=torch.float64, device=self.device())
        done = start
        split = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        with naming_memory(
            f"The statistics of {self.layer}, {self.batch} latents at a time{split},"
        ):
            keys = self.generator.key_tiles(self.layer, self.tiles)
            for latents in _batches(self.generator, self.stream, numbers, self.batch):
                for tile in keys(latents):
                    _add_outer_products(total, tile.movedim(1, -1).reshape(-1, channels))
                    del tile  # not held while the next one is computed
                done += len(latents)
                self.progress(done, self.samples)
        return total

    def name(self, start: int) -> str:
        """The name of a block in the cache."""
        return f"{self.key}-{start}"

    def forget(self) -> None:
        """Remove the blocks, once C is kept: from the caches of all processes, which may be
        several.
        """
        if len(self.starts()) > 1:
            names = [self.name(start) for start in self.starts()]
            removed = spread(partial(_removed, self.cache), [names] * processes(), self.device())
            assert len(list(removed)) == processes()

    def device(self) -> torch.device:
        """Where the generator is."""
        return self.generator.weight(self.layer).device

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: what to do, and nobody to tell."""
        return {**self.__dict__, "progress": _silent}


def _add_outer_products(total: Tensor, rows: Tensor) -> None:
    """Add the sum of k k^T over `rows` [p, n] to `total` [n, n] float64, on and above the diagonal.

    In float64, some rows at a time, so that memory does not grow with the map, and some columns at
    a time, so that what follows from symmetry is not computed.
    """
    count = max(1, (SLICE_OF_A_GPU if rows.is_cuda else SLICE) // rows.shape[1])
    room = rows.new_empty(min(count, len(rows)), rows.shape[1], dtype=torch.float64)
    for some in torch.split(rows, count):
        exact = room[: len(some)].copy_(some)
        for begin in range(0, rows.shape[1], TILE):
            total[begin : begin + TILE, begin:].addmm_(
                exact[:, begin : begin + TILE].T, exact[:, begin:]
            )


def _removed(cache: Cache, names: Sequence[str]) -> None:
    """Remove blocks."""
    for name in names:
        cache.remove("blocks", name)


def _silent(done: int, total: int) -> None:
    """Tell nobody."""
