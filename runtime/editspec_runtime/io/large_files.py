"""Large files of weights, whose tensors are read when they are needed."""

from __future__ import annotations

from functools import partial

from editspec_runtime.io.files import read_tensor
from editspec_runtime.io.headers import TORCH_DTYPES
from editspec_runtime.io.lazy_tensors import LazyTensors, Reader
from editspec_runtime.io.shards import Stored

LARGE = 2**31
"""The bytes of stored weights from which on they are read when they are needed."""


def find_large(stored: Stored) -> LazyTensors | None:
    """The tensors of stored weights that are large; None where they are read at once."""
    size = 0
    for file in stored.files:
        size += sum(end - begin for begin, end in file.offsets.values())
    kinds = {info.dtype for info in stored.tensors.values()}
    if size < LARGE or not kinds <= set(TORCH_DTYPES):
        return None
    readers: dict[str, Reader] = {}
    for file in stored.files:
        for name, info in file.tensors.items():
            begin, end = file.offsets[name]
            readers[name] = partial(read_tensor, file.path_of(name), begin, end, info)
    return LazyTensors(readers, stored.tensors)
