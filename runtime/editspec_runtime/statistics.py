"""The second moment C = E[k k^T] of a layer's keys (paper section 3.3), accumulated and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec_runtime import __version__
from editspec_runtime.cache import Cache
from editspec_runtime.conventions import Conventions
from editspec_runtime.digest import digest, tensors_digest
from editspec_runtime.generator import Generator
from editspec_runtime.latents import LatentStream

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
    conventions: Conventions,
    cache: Cache,
    progress: Progress = lambda done, total: None,
) -> SecondMoment:
    """The second moment of the keys of `layer` over items 0 … samples - 1 of `stream`.

    It is cached by everything upstream of the layer, so that an edit of this layer or of a later one reuses it.
    """
    tensors, cached = cache.tensors(
        "statistics",
        second_moment_key(generator, layer, stream, samples, conventions),
        lambda: {"second_moment": _accumulate(generator, layer, stream, samples, conventions, progress)},
    )
    return SecondMoment(tensors["second_moment"], cached)


def second_moment_key(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Conventions
) -> str:
    """The name of a second moment in the cache: the digest of everything that it depends on."""
    return digest(_inputs(generator, layer, stream, samples, conventions))


LARGEST_MAPS = 2**26
"""Numbers that the maps of one layer may have in a forward batch: StyleGAN2 at 1024 x 1024 then fits into 6 GB."""

SAMPLED_KEYS = 65_536
"""Keys that the quantiles of units are taken from."""


def key_sample(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Conventions, cache: Cache
) -> Tensor:
    """Keys of `layer` spread evenly over the positions of items 0 … samples - 1, [p, in_channels], columns sorted.

    At most `SAMPLED_KEYS` of them; cached as `second_moment` is.
    """
    key = digest(_inputs(generator, layer, stream, samples, conventions))

    def compute() -> dict[str, Tensor]:
        positions = generator.layer(layer).key_size ** 2
        stride = -(-samples * positions // SAMPLED_KEYS)
        chunks = [rows[::stride].cpu() for rows in _keys(generator, layer, stream, samples, conventions)]
        return {"keys": torch.cat(chunks).sort(0).values}

    return cache.tensors("quantiles", key, compute)[0]["keys"]


def environment(generator: Generator) -> list[str]:
    """What bits may depend on beside the inputs: software, kind of device, number of threads."""
    weight = next(iter(generator.weights.values()))
    device = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "cpu"
    return [__version__, torch.__version__, device, str(weight.dtype), str(torch.get_num_threads())]


def _inputs(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Conventions
) -> dict[str, object]:
    """Everything that the keys of a sample depend on."""
    return {
        "layer": layer,
        "upstream": tensors_digest(generator.upstream(layer)),
        "generator": generator.settings(),
        "latents": [stream.sampler, stream.seed, stream.size, samples],
        "chunk": forward_batch(generator, layer, conventions),
        "environment": environment(generator),
    }


@torch.no_grad()
def key_maps(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Conventions
) -> Iterator[Tensor]:
    """The key maps of items 0 … samples - 1, chunk by chunk: [chunk, in_channels, key_size, key_size]."""
    chunk = forward_batch(generator, layer, conventions)
    for start in range(0, samples, chunk):
        numbers = range(start, min(start + chunk, samples))
        yield generator.prefix(layer, stream.items(numbers).to(generator.weight(layer))).key


def forward_batch(generator: Generator, layer: str, conventions: Conventions) -> int:
    """Latents per forward batch up to `layer`: a chunk of the conventions, or less where its maps would be very large.

    It follows from the model alone, as other batches give other bits. Where noise goes by the place in the batch, as
    with the paper's authors, the batch is part of the numbers and stays as it is.
    """
    if conventions.positional_noise:
        return conventions.statistics_chunk
    layers = list(generator.layout.layers.values())
    before = layers[: layers.index(generator.layer(layer)) + 1]
    largest = max(max(each.in_channels * each.key_size**2, each.out_channels * each.value_size**2) for each in before)
    return max(1, min(conventions.statistics_chunk, LARGEST_MAPS // largest))


def _keys(
    generator: Generator, layer: str, stream: LatentStream, samples: int, conventions: Conventions
) -> Iterator[Tensor]:
    """The keys of all positions, chunk by chunk: [positions, in_channels]."""
    for key in key_maps(generator, layer, stream, samples, conventions):
        yield key.movedim(1, -1).reshape(-1, key.shape[1])


@torch.no_grad()
def _accumulate(
    generator: Generator,
    layer: str,
    stream: LatentStream,
    samples: int,
    conventions: Conventions,
    progress: Progress,
) -> Tensor:
    """C in float64. The chunk is also the forward batch, so that C does not depend on how the work is divided."""
    channels = generator.layer(layer).in_channels
    parameter = generator.weight(layer)
    total = torch.zeros(channels, channels, dtype=torch.float64, device=parameter.device)
    positions = done = 0
    for key in key_maps(generator, layer, stream, samples, conventions):
        rows = key.movedim(1, -1).reshape(-1, channels).double()
        total += rows.T @ rows
        positions += len(rows)
        done += len(key)
        progress(done, samples)
    mean = (total / positions).cpu()
    return (mean + mean.T) / 2
