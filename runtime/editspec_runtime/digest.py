"""Digests of weights and of values: what binds a patch to its base."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from editspec_runtime.files import canonical_json

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


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of a plain value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of the little-endian bytes of a tensor, as 64 hexadecimal digits."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the list [name, safetensors dtype, shape, SHA-256 of the bytes], sorted by name.

    Of a generator's tensors this is the digest of weights of the patch format: it does not depend on the container.
    """
    return digest(
        [
            [
                name,
                SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")],
                list(tensor.shape),
                tensor_digest(tensor),
            ]
            for name, tensor in sorted(tensors.items())
        ]
    )
