"""Writers of files of tensors, one tensor in memory at a time."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from editspec_runtime.io.digests import tensor_bytes
from editspec_runtime.io.marks import as_extra, as_said
from editspec_runtime.io.rewriting import open_entry
from editspec_runtime.io.tensor_files import write_safetensors
from editspec_runtime.io.weights import Weights

STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}
"""The class that torch names the numbers of a dtype by."""

FOLDER = "archive"
"""The folder within an archive of torch that holds everything."""


def write_weights(target: BinaryIO, weights: Weights, kind: str) -> None:
    """Write weights as plain tensors, in their container.

    Parameters
    ----------
    target
        Where they are written, from the beginning.
    weights
        The weights.
    kind
        ``safetensors`` or ``torch``.
    """
    container = weights.container
    if kind == "torch":
        content: dict[str, Any] = dict(container.others)
        for name, tensor in weights.items():
            *keys, last = container.place(name)
            mapping = content
            for key in keys:
                mapping = mapping.setdefault(key, {})
            mapping[last] = tensor
        write_torch(target, content, weights.file_metadata())
        return
    named = {container.name(name): tensor for name, tensor in weights.items()}
    write_safetensors(target, named | dict(container.others), weights.file_metadata())


def write_torch(
    target: BinaryIO, content: Mapping[str, object], metadata: Mapping[str, str]
) -> None:
    """Write plain tensors as `torch.save` does: mappings of text to tensors and to mappings.

    `metadata` go where `read_metadata` finds them.
    """
    text = io.BytesIO()
    pickler = _Pickler(text)
    pickler.dump(content)
    small = {"data.pkl": text.getvalue(), "byteorder": b"little"}
    extra = as_extra(as_said(metadata))
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in small.items():
            with open_entry(archive, target, f"{FOLDER}/{name}", len(data), extra) as out:
                out.write(data)
            extra = b""
        for number, tensor in enumerate(pickler.tensors):
            data_bytes = tensor_bytes(tensor)
            name = f"{FOLDER}/data/{number}"
            with open_entry(archive, target, name, len(data_bytes), b"") as out:
                out.write(data_bytes)
        with open_entry(archive, target, f"{FOLDER}/version", 2, b"") as out:
            out.write(b"3\n")


class _Storage:
    """The numbers of a tensor, by their number in the file."""

    def __init__(self, number: int, tensor: Tensor) -> None:
        self.identifier = (
            "storage",
            STORAGES[tensor.dtype],
            str(number),
            "cpu",
            tensor.numel(),
        )


class _Pickler(pickle.Pickler):
    """A pickler of plain containers, whose tensors lie outside of the pickle."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, protocol=2)
        self.tensors: list[Tensor] = []

    def persistent_id(self, thing: object) -> object:
        return thing.identifier if isinstance(thing, _Storage) else None

    def reducer_override(self, thing: object) -> Any:
        if not isinstance(thing, Tensor):
            return NotImplemented
        storage = _Storage(len(self.tensors), thing)
        self.tensors.append(thing)
        no_hooks: OrderedDict[str, object] = OrderedDict()
        stride = torch.empty(thing.shape, device="meta").stride()
        arguments = (storage, 0, tuple(thing.shape), stride, False, no_hooks)
        return torch._utils._rebuild_tensor_v2, arguments
