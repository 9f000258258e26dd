"""Digests of weights and of values: what binds a patch to its base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from editspec_runtime.io.files import canonical_json
from editspec_runtime.io.headers import SAFETENSORS_DTYPES

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[str, str, list[int], str]
"""Name, safetensors dtype, shape and SHA-256 of the bytes of a tensor."""


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of a plain value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The little-endian bytes of a tensor in the order of its elements."""
    import torch

    # As bytes: numpy does not know bfloat16.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data: memoryview = flat.numpy().data
    return data


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of the little-endian bytes of a tensor, as 64 hexadecimal digits."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the rows of tensors, sorted by name.

    A row is [name, safetensors dtype, shape, SHA-256 of the bytes]. Of a model's tensors this is
    the digest of weights of the patch format: it does not depend on the container.
    """
    return rows_digest(tensor_row(name, tensor) for name, tensor in tensors.items())


def tensor_row(name: str, tensor: Tensor) -> Row:
    """Hash the bytes of a tensor, and make its row in the digest of weights."""
    return make_row(name, tensor, tensor_digest(tensor))


def make_row(name: str, tensor: Tensor, sha256: str) -> Row:
    """Make the row of a tensor in the digest of weights from a known `sha256`."""
    dtype = SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return name, dtype, list(tensor.shape), sha256


def rows_digest(rows: Iterable[Row]) -> str:
    """The digest of weights from the rows of its tensors, in any order."""
    return digest(sorted(rows))
