"""The state dicts in what a file of torch or a pickle holds, wherever they are nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from editspec_runtime.families.selection import Held
from editspec_runtime.io.headers import SAFETENSORS_DTYPES, TensorInfo
from editspec_runtime.io.numpy_data import NumberArray
from editspec_runtime.io.weights import Weights

DEPTH = 6
"""How deep a state dict may be nested."""

MOST = 10_000
"""The most mappings that are looked into."""

ENTRIES = 2_000_000
"""The most entries that are looked at; mappings and lists may be shared by many others."""

OPTIMISER = {"state", "param_groups"}
"""The keys of an optimiser's state, whose tensors are those of no model."""

StateDicts = dict[tuple[str, ...], dict[str, Tensor]]
"""State dicts by the keys that lead to them."""


def find_state_dicts(content: object) -> StateDicts:
    """Find all mappings from names to tensors in what a file holds.

    Arrays of numpy count as tensors. Those of optimisers are left out.
    """
    found: StateDicts = {}
    for key, mapping in _walk(content):
        tensors = {}
        for name, value in mapping.items():
            tensor = _read_tensor(value)
            if isinstance(name, str) and tensor is not None:
                tensors[name] = tensor
        if tensors:
            found[key] = tensors
    return found


def describe_held(dicts: StateDicts) -> list[Held]:
    """Describe state dicts by dtypes and shapes."""
    return [Held(key, tensor_infos(tensors)) for key, tensors in dicts.items()]


def tensor_infos(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """The dtypes, by their names in safetensors where they have one, and shapes of tensors.

    Of weights, those of tensors that are not held are among them.
    """
    infos = {}
    if isinstance(tensors, Weights):
        for name, dtype, shape, _ in tensors.unread.values():
            infos[name] = TensorInfo(dtype, tuple(shape))
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        infos[name] = TensorInfo(SAFETENSORS_DTYPES.get(kind, kind), tuple(tensor.shape))
    return infos


def _walk(content: object) -> Iterator[tuple[tuple[str, ...], Mapping[object, object]]]:
    """Yield the mappings in what a file holds, the outermost first."""
    waiting: list[tuple[tuple[str, ...], object]] = [((), content)]
    count, entries = 0, 0
    while waiting and count < MOST and entries < ENTRIES:
        key, value = waiting.pop(0)
        count += 1
        entries += len(value) if isinstance(value, Mapping | list | tuple) else 0
        inner: list[tuple[object, object]] = []
        if isinstance(value, Mapping) and not set(value) >= OPTIMISER:
            yield key, value
            inner = list(value.items())
        elif isinstance(value, list | tuple):
            inner = list(enumerate(value))
        if len(key) < DEPTH:
            for name, part in inner:
                if isinstance(part, Mapping | list | tuple):
                    waiting.append(((*key, _say(name)), part))


def _say(name: object) -> str:
    """The text of a key; of one that is neither a text nor a number its type."""
    return str(name) if isinstance(name, str | int) else type(name).__name__


def _read_tensor(value: object) -> Tensor | None:
    """The tensor of a value; None where it is none."""
    if isinstance(value, NumberArray):
        kind = value.values.dtype.newbyteorder("=")
        if kind.kind not in "biuf":
            return None
        return torch.from_numpy(value.values.astype(kind))
    return value.detach() if isinstance(value, Tensor) else None
