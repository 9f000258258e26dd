"""Large files of weights, whose tensors are read when they are needed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.digests import SAFETENSORS_DTYPES
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.lazy_tensors import LazyTensors, Reader
from editspec_runtime.io.shards import Stored

LARGE = 2**31
"""The bytes of stored weights from which on they are read when they are needed."""

DTYPES = {name: dtype for dtype, name in SAFETENSORS_DTYPES.items()}


def find_large(stored: Stored) -> LazyTensors | None:
    """The tensors of stored weights that are large; None where they are read at once."""
    size = 0
    for file in stored.files:
        size += sum(end - begin for begin, end in file.offsets.values())
    kinds = {info.dtype for info in stored.tensors.values()}
    if size < LARGE or not kinds <= set(DTYPES):
        return None
    readers: dict[str, Reader] = {}
    for file in stored.files:
        for name, info in file.tensors.items():
            begin, end = file.offsets[name]
            readers[name] = partial(_read, file.path_of(name), begin, end, info)
    return LazyTensors(readers, stored.tensors)


def _read(path: Path, begin: int, end: int, info: TensorInfo) -> Tensor:
    """Read a tensor from the bytes `begin` to `end` of a file."""
    dtype: torch.dtype = getattr(torch, DTYPES[info.dtype])
    data = torch.empty(end - begin, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(begin)
        if file.readinto(data.numpy().data) != len(data):
            raise FileError(
                f"{path} became shorter while it was read.", "Get it again, and run once more."
            )
    return data.view(dtype).view(info.shape)
