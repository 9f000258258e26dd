"""The keys of a sample, batch by batch, and everything that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from editspec_runtime.core.architecture import Layer
from editspec_runtime.core.compatibility import Compatibility
from editspec_runtime.core.model import Keys, MappedModel, Model, TiledKeys
from editspec_runtime.core.sample import Sample
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.digests import digest
from editspec_runtime.io.weights import digest_of
from editspec_runtime.maths.environment import environment
from editspec_runtime.maths.parallel import AnyModel, map_parts, separate_models

Made = TypeVar("Made")

LARGEST_BATCH, LARGEST_BATCH_OF_A_GPU = 2**23, 2**26
"""The largest amount of numbers in the keys or values of a layer in a forward batch.

On a CPU several batches are computed at once, and smaller ones stay in its caches. A GPU computes
one batch at a time.
"""

SUMS = 4
"""How many sums of outer products there may be at least for each number of a forward batch.

Of a layer of many features, all sums are written and read once for a batch, which is to be little
beside the products.
"""

LARGEST_PASS, LEAST_POSITIONS = 2**21, 512
"""The numbers in the keys or values of a layer in one pass over texts on a CPU, and the positions.

The first is the largest amount: memory of that size is used again, where the system would have to
give larger pieces anew each time. Passes have at least as many positions as the second one says,
beside whose products it is little to read the weights.
"""

KEPT_KEYS = 2**24
"""The largest amount of numbers in keys that are cached: 64 MiB in float32."""

SAMPLED_KEYS = 65_536
"""The largest number of keys that the quantiles of units are computed from."""


def forward_batch(model: Model, layer: str, sample: Sample, compatibility: Compatibility) -> int:
    """The number of items in a forward batch up to `layer`.

    It is the chunk, or less if the keys or values of a layer up to this one are very many. It
    follows from the layers and the sample alone, and never from the free memory, because other
    batches give other bits. If an item's numbers depend on its place in the batch, it is the chunk.
    """
    if compatibility.fixed_chunk:
        return compatibility.chunk
    largest = LARGEST_BATCH_OF_A_GPU if model.weight(layer).is_cuda else LARGEST_BATCH
    largest = max(largest, model.architecture.layers[layer].in_features ** 2 // SUMS)
    numbers = numbers_per_item(model, layer, sample.longest)
    return max(1, min(compatibility.chunk, largest // numbers))


def items_in_pass(model: Model, layer: str, sample: Sample, batch: int) -> int:
    """The number of items of a forward batch that go through the model at once.

    It is the batch, and less where items have positions of their own number, as texts do. It
    follows from the layers, the sample and the batch alone: other passes give other bits.
    """
    shape = model.architecture.layers[layer]
    if shape.positions is not None or model.weight(layer).is_cuda:
        return batch
    longest = sample.longest or 1
    fitting = LARGEST_PASS // numbers_per_item(model, layer, longest)
    return max(1, min(batch, max(fitting, LEAST_POSITIONS // longest)))


def numbers_per_item(model: Model, layer: str, longest: int | None = None) -> int:
    """The amount of numbers in the largest keys or values of an item up to `layer`.

    `longest` is the number of positions of the longest item, where layers do not say their own.
    """
    layers = list(model.architecture.layers.values())
    before = layers[: layers.index(model.architecture.layers[layer]) + 1]
    return max(_numbers_at(each, longest or 1) for each in before)


def _numbers_at(layer: Layer, longest: int) -> int:
    """The amount of numbers in the keys or the values of an item, whichever is larger."""
    keys = layer.in_features * (layer.positions or longest)
    values = layer.out_features * (layer.value_positions or longest)
    return max(keys, values)


def key_reader(model: Model, layer: str, tiles: int = 1) -> Callable[[Any], Iterator[Keys]]:
    """The keys of `layer` as a function of a batch, in at most `tiles` parts.

    Only models that have `TiledKeys` give more than one part.
    """
    if isinstance(model, TiledKeys):
        return model.key_tiles(layer, tiles)
    return lambda batch: iter([model.keys(layer, batch)])


def most_tiles(model: Model, layer: str) -> int:
    """The largest number of parts that the keys of `layer` may be split into."""
    return model.most_tiles(layer) if isinstance(model, TiledKeys) else 1


def models_for_batches(
    model: AnyModel, layer: str, sample: Sample, size: int, count: int
) -> list[AnyModel]:
    """The models that compute `count` batches of `size` items up to `layer` at once."""
    features = model.architecture.layers[layer].in_features
    # A second moment has numbers of twice the size.
    numbers = max(size * numbers_per_item(model, layer, sample.longest), 2 * features**2)
    return separate_models(model, numbers, count)


def share_by_model(models: Sequence[AnyModel], make: Callable[[AnyModel], Made]) -> list[Made]:
    """Make something of each model, once of models that are the same one."""
    made = {id(model): make(model) for model in models}
    return [made[id(model)] for model in models]


@torch.no_grad()
def keys_of_sample(
    model: Model, layer: str, sample: Sample, compatibility: Compatibility
) -> Iterator[Keys]:
    """Yield the keys of `layer` for all items of a sample, batch by batch."""
    size = forward_batch(model, layer, sample, compatibility)
    starts = range(0, sample.count, size)
    models = models_for_batches(model, layer, sample, size, len(starts))

    def make_reader(own: Model) -> Callable[[int], list[Keys]]:
        read = key_reader(own, layer)
        return lambda start: list(read(_batch_at(sample, own, size, start)))

    for keys in map_parts(share_by_model(models, make_reader), starts):
        yield from keys


@torch.no_grad()
def key_maps(
    model: MappedModel, layer: str, sample: Sample, compatibility: Compatibility
) -> Iterator[Tensor]:
    """Yield the key maps of all items, batch by batch.

    A batch is [batch, in_channels, height, width].
    """
    size = forward_batch(model, layer, sample, compatibility)
    starts = range(0, sample.count, size)
    models = models_for_batches(model, layer, sample, size, len(starts))

    def make_reader(own: MappedModel) -> Callable[[int], Tensor]:
        read = own.key_maps(layer)
        return lambda start: read(_batch_at(sample, own, size, start))

    yield from map_parts(share_by_model(models, make_reader), starts)


def _batch_at(sample: Sample, model: Model, size: int, start: int) -> Any:
    """The batch of a sample that begins at item `start`."""
    numbers = range(start, min(start + size, sample.count))
    (batch,) = sample.batches(model, size, numbers)
    return batch


def cached_key_maps(
    model: MappedModel, layer: str, sample: Sample, compatibility: Compatibility, cache: Cache
) -> Iterator[Tensor]:
    """Yield `key_maps`, from the cache if they are small.

    From the cache, a rule is judged without the computation of the model up to its layer.
    """
    numbers = model.architecture.layers[layer].key_numbers
    if numbers is None or sample.count * numbers > KEPT_KEYS:
        yield from key_maps(model, layer, sample, compatibility)
        return
    size = forward_batch(model, layer, sample, compatibility)

    def compute() -> dict[str, Tensor]:
        keys = torch.cat(list(key_maps(model, layer, sample, compatibility)))
        # The cache returns contiguous tensors, and another memory layout gives other bits: so the
        # first run computes with the layout of the later ones.
        return {"keys": keys.contiguous()}

    name = digest(key_inputs(model, layer, sample, size))
    kept, _ = cache.tensors("keys", name, compute)
    yield from torch.split(kept["keys"].to(model.weight(layer).device), size)


def key_sample(
    model: Model, layer: str, sample: Sample, compatibility: Compatibility, cache: Cache
) -> Tensor:
    """Sample keys of `layer` evenly over the positions of a sample.

    Returns [p, in_features] with at most about `SAMPLED_KEYS` rows, each column sorted. The keys
    are cached by everything that they depend on.
    """
    size = forward_batch(model, layer, sample, compatibility)

    def compute() -> dict[str, Tensor]:
        positions = model.architecture.layers[layer].positions or sample.longest or 1
        stride = -(-sample.count * positions // SAMPLED_KEYS)
        parts = []
        for keys in keys_of_sample(model, layer, sample, compatibility):
            rows, _ = keys.rows()
            parts.append(rows[::stride].cpu())
        return {"keys": torch.cat(parts).sort(0).values}

    name = digest(key_inputs(model, layer, sample, size))
    return cache.tensors("quantiles", name, compute)[0]["keys"]


def key_inputs(model: Model, layer: str, sample: Sample, batch: int) -> dict[str, object]:
    """Everything that the keys of a sample depend on, as plain values by name."""
    # Layers of one weight have the same keys, wherever their values lie.
    shape = model.architecture.layers[layer]
    return {
        "parameter": shape.keys or shape.parameter,
        "upstream": digest_of(model.weights, model.upstream(layer)),
        "model": dict(model.fingerprint()),
        "sample": sample.fingerprint(),
        "batch": batch,
        "environment": environment(model),
    }
