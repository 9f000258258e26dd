"""The writer of safetensors files, one tensor in memory at a time; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from editspec_runtime.io.digests import tensor_bytes
from editspec_runtime.io.headers import SAFETENSORS_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
"""The dtypes of a safetensors file in the order in which the library writes them."""


def write_safetensors(
    target: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file as the library does: by dtype, then by name.

    The library writes several metadata in an order that differs from process to process; here they
    are sorted.
    """
    dtypes = {}
    for name, tensor in tensors.items():
        dtypes[name] = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
    names = sorted(tensors, key=lambda name: (ORDER.index(dtypes[name]), name))
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    place = 0
    for name in names:
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtypes[name],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        target.write(tensor_bytes(tensors[name]))
