"""Digests of weights and of values: what binds a patch to its base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from editspec_runtime.io.files import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


Row = tuple[str, str, list[int], str]
"""Name, safetensors dtype, shape and SHA-256 of the bytes of a tensor."""


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of a plain value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of the little-endian bytes of a tensor, as 64 hexadecimal digits."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the list [name, safetensors dtype, shape, SHA-256 of the bytes], sorted by name.

    Of a generator's tensors this is the digest of weights of the patch format: it does not depend
    on the container.
    """
    return rows_digest(tensor_row(name, tensor) for name, tensor in tensors.items())


def tensor_row(name: str, tensor: Tensor) -> Row:
    """What the digest of weights says of one tensor: name, safetensors dtype, shape, SHA-256 of the
    bytes.
    """
    dtype = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return name, dtype, list(tensor.shape), tensor_digest(tensor)


def rows_digest(rows: Iterable[Row]) -> str:
    """The digest of weights from what it says of each tensor, in any order."""
    return digest(sorted(rows))
