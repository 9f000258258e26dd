"""Headers of safetensors files, read without numpy and torch.

The library reads headers, too, but imports numpy for that, which takes longer than all else that
`validate` does. A test compares both readers on damaged headers; tensors are read by the library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

from editspec_runtime.io.json_text import parse_json

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""The size of a number of each dtype."""

LONGEST = 100_000_000
"""The most bytes of a header, as in the library."""

METADATA = "__metadata__"


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
"""The dtypes of tensors that are read and written here, by their names in torch."""
TORCH_DTYPES = {stored: name for name, stored in SAFETENSORS_DTYPES.items()}
"""The names in torch of these dtypes."""


@dataclass(frozen=True)
class TensorInfo:
    """The dtype, such as ``BF16``, and the shape of a tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes
    ----------
    tensors, metadata
        The tensors by their names, and the metadata.
    offsets
        Begin and end of the bytes of each tensor, counted from the beginning of the file, in the
        order of the bytes.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    offsets: dict[str, tuple[int, int]]


def parse_header(file: BinaryIO, size: int) -> Header:
    """Parse the header of an open file of `size` bytes.

    Raises `ValueError` where the header is damaged, or the tensors do not fill the file exactly.
    """
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > LONGEST or start > size:
        raise ValueError("the header does not fit into the file")
    text = file.read(length)
    content = parse_json(text) if text.startswith(b"{") else None
    if not isinstance(content, dict):
        raise ValueError("the header is not a mapping")
    metadata = _require_texts(content.pop(METADATA, None) or {})
    tensors, offsets = {}, {}
    for name, entry in content.items():
        tensors[name] = _read_info(entry)
        begin, end = _read_numbers(entry["data_offsets"])
        offsets[name] = (start + begin, start + end)
    offsets = dict(sorted(offsets.items(), key=lambda item: item[1]))
    expected = start
    for name, (begin, end) in offsets.items():
        if begin != expected or end - begin != _count_bytes(tensors[name]):
            raise ValueError("a tensor does not begin and end where it should")
        expected = end
    if expected != size:
        raise ValueError("the tensors do not fill the file")
    return Header(tensors, metadata, offsets)


def _require_texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise ValueError("the metadata is not a mapping")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata holds more than text")
    return metadata


def _read_info(entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError("a tensor lacks its dtype, shape or offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError("a dtype is unknown")
    return TensorInfo(dtype, tuple(_read_numbers(entry["shape"])))


def _read_numbers(given: Any) -> list[int]:
    """Return a list of whole numbers from 0 to 2^64 - 1; anything else is a `ValueError`."""
    if not isinstance(given, list):
        raise ValueError("a shape or offsets are not a list")
    for number in given:
        if type(number) is not int or not 0 <= number < 2**64:
            raise ValueError("a shape or an offset is not a whole number")
    return given


def _count_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * BITS[info.dtype] // 8
