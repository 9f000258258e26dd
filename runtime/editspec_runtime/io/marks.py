"""What editspec says in files of weights besides the tensors; imports no torch.

A safetensors file has metadata. An archive of torch gets an extra field of its first entry, which
no reader of archives looks at; a pickle gets a text behind its end, where no reader looks either.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from editspec_runtime.errors import FileError
from editspec_runtime.io.archives import open_archive
from editspec_runtime.io.files import canonical_json, detect_container, read_header
from editspec_runtime.io.json_text import JsonError, parse_json

FIELD = b"ES"
"""The kind of the extra field."""

LARGEST_FIELD = 60_000
"""The most bytes of it, which an archive limits to 65,535 with all others."""

TRAILER = b"\neditspec.weights\n"
"""The end of a text behind a pickle, after its length in 8 bytes."""

LARGEST = 2**24
"""The most bytes of the text."""


def as_extra(said: str) -> bytes:
    """The extra field of a text; empty where it is empty, or too long for one."""
    data = said.encode()
    if not data or len(data) > LARGEST_FIELD:
        return b""
    return FIELD + struct.pack("<H", len(data)) + data


def as_trailer(said: str) -> bytes:
    """The bytes behind a pickle for a text; empty where it is empty."""
    data = said.encode()
    return data + len(data).to_bytes(8, "little") + TRAILER if data else b""


def as_said(metadata: Mapping[str, str]) -> str:
    """The text for metadata as a safetensors file has them."""
    return canonical_json(dict(metadata)) if metadata else ""


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file of weights of any container; empty where there are none.

    Raises `FileError` where the file is missing or damaged.
    """
    container = detect_container(path)
    if not container:  # whoever reads the file says what it is instead
        return {}
    if container == "safetensors":
        return dict(read_header(path).metadata)
    data = _read_extra(path) if _is_archive(path) else _read_trailer(path)
    try:
        found = parse_json(data) if data else {}
    except JsonError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise FileError(f"{path} is damaged: its metadata is not JSON.", "Copy or build it again.")
    return found


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _read_extra(path: Path) -> bytes:
    for entry in open_archive(path).entries.values():
        at = 0
        while at + 4 <= len(entry.extra):
            kind = entry.extra[at : at + 2]
            (length,) = struct.unpack_from("<H", entry.extra, at + 2)
            if kind == FIELD:
                return entry.extra[at + 4 : at + 4 + length]
            at += 4 + length
    return b""


def _read_trailer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        end = size - len(TRAILER) - 8
        if end < 0:
            return b""
        file.seek(end)
        length = int.from_bytes(file.read(8), "little")
        if file.read() != TRAILER or length > min(end, LARGEST):
            return b""
        file.seek(end - length)
        return file.read(length)
