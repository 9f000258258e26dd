"""The weights of a folder of several models, as diffusers keeps them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from editspec_runtime.errors import FileError, WeightsError
from editspec_runtime.families.selection import Choice
from editspec_runtime.io.digests import Row
from editspec_runtime.io.files import read_tensors
from editspec_runtime.io.parts import EDITED
from editspec_runtime.io.shards import StoredFile, read_stored
from editspec_runtime.io.weights import Weights

NEEDED = (".to_k.weight", ".to_v.weight")
"""The ends of the names of the tensors of the edited model that an edit may need."""

CHUNK = 2**20
"""Bytes that are hashed at a time."""

WORKERS = min(4, os.cpu_count() or 1)
"""Tensors that are hashed at a time."""


def read_parts(path: Path, choice: Choice, *, whole: bool = True) -> Weights:
    """Read the weights of a folder of several models.

    Names have the folder of their model before them: ``unet/conv_in.weight``. Where not the `whole`
    is asked for, tensors that no edit needs are only hashed, and never in memory.

    Raises
    ------
    FileError
        A file is missing or damaged.
    WeightsError
        A key or a prefix is asked for.
    """
    if choice.key is not None or choice.prefix is not None:
        raise WeightsError(
            f"{path} is a folder of several models, which have no key and no prefix.",
            "Leave out model.key and model.prefix.",
        )
    found = read_stored(path)
    tensors: dict[str, Tensor] = {}
    unread: dict[str, Row] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for file in found.files:
            left = [] if whole or file.part != EDITED else list(_unneeded(file))
            unread |= zip(
                left, pool.map(lambda name, own=file: _hash(own, name), left), strict=True
            )
            read = read_tensors(file.path)
            for name in file.tensors:
                if name not in unread:
                    tensors[name] = read[file.name_in_file(name)]
    return Weights(tensors, metadata=found.metadata, unread=unread)


def _unneeded(file: StoredFile) -> Iterator[str]:
    return (name for name in file.tensors if not name.endswith(NEEDED))


def _hash(file: StoredFile, name: str) -> Row:
    """Hash the bytes of a stored tensor, part by part."""
    begin, end = file.offsets[name]
    found = hashlib.sha256()
    with file.path.open("rb") as source:
        source.seek(begin)
        for at in range(begin, end, CHUNK):
            piece = source.read(min(CHUNK, end - at))
            if not piece:
                raise FileError(
                    f"{file.path} became shorter while it was read.",
                    "Run the command again when nothing writes to it.",
                )
            found.update(piece)
    info = file.tensors[name]
    return name, info.dtype, list(info.shape), found.hexdigest()
