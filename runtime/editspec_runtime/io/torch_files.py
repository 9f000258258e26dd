"""Checkpoints of torch: plain containers and tensors, no larger than what is stored."""

from __future__ import annotations

import argparse
import io
import itertools
import logging
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from editspec_runtime.errors import FileError
from editspec_runtime.io.archives import Archive, open_archive, read_archive
from editspec_runtime.io.files import begins_with, unreadable
from editspec_runtime.io.numpy_data import NumberArray, NumberKind, NumpyData
from editspec_runtime.io.pickle_scan import Scan, scan_pickle

PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|complex)"
    r"|argparse\.Namespace|torch\.(Size|device|[A-Z]\w*Storage|[a-z]+\d\w*|bool|per_\w+_affine)"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(q?tensor(_v[23])?|parameter|sparse_tensor|meta_tensor_no_storage)"
)
"""What a checkpoint may name. torch knows more, some of which allocates what a number says."""

NUMPY = frozenset(NumpyData().table())

ZIP = b"PK"
PICKLES = 5
"""The pickles in a checkpoint of the old kind, before the numbers; the fourth is the content."""


SHOWN = 8
"""Keys that a message names."""


class Foreign(Exception):
    """A name in a checkpoint that is neither a plain container nor a tensor."""


def read_torch(path: Path) -> object:
    """Read a ``.pt`` file: plain containers, numbers and tensors.

    Numbers and arrays of numpy are plain numbers and `NumberArray`. Code is never run, and what the
    file says is held against its size first. Raises `FileError` where the file is missing, damaged,
    or holds anything else.
    """
    packed = begins_with(path, ZIP)
    try:
        if packed:
            require_sound_archive(open_archive(path))
        else:
            with path.open("rb") as file:
                require_sound_pickles(file, path.stat().st_size)
        with quiet_torch(), torch.serialization.safe_globals(_known()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Foreign as error:
        raise FileError(
            f"{path} holds more than tensors and plain containers ({error}), and such a file "
            "can run code when it is read. It was not executed.",
            "Save the generator's state dict alone (or as .safetensors) in the environment that "
            "made the file.",
        ) from error
    except FileError:
        raise
    except Exception as error:  # torch's reader meets damage with errors of many kinds
        raise unreadable(path, "a readable torch checkpoint") from error


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch from writing to the terminal while it reads a file.

    It warns of old formats, and logs the tracebacks of damage, which its caller reports. Its
    loggers differ from version to version, and some have levels of their own: all are disabled.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _known() -> list[Any]:
    """What torch is told to know besides its own: plain containers, and numbers of numpy."""
    # rosinality's training keeps its command line in the checkpoint: a plain container, too.
    known: list[Any] = [argparse.Namespace]
    known += [(stand_in, name) for name, stand_in in NumpyData().table().items()]
    # Types whose states may be set. A name without a dot is one that no pickle can give.
    return [*known, (NumberKind, "kind"), (NumberArray, "array")]


def load_torch(data: bytes, path: Path) -> object:
    """Read a checkpoint that lies in another file, as `read_torch` does.

    Raises `Foreign` where it holds anything else, and whatever torch raises for damage.
    """
    if data.startswith(ZIP):
        require_sound_archive(read_archive(data, path))
    else:
        require_sound_pickles(io.BytesIO(data), len(data))
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def require_sound_archive(archive: Archive) -> None:
    """Raise unless a checkpoint is plain, and its storages are as large as it says.

    Raises `Foreign` for anything but plain containers and tensors, `UnpicklingError` for damage.
    """
    contents = [name for name in archive if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(contents) != 1:
        raise pickle.UnpicklingError("it has no content")
    folder = contents[0].partition("/")[0]
    data = archive[contents[0]]
    scan = _require_plain(scan_pickle(io.BytesIO(data), len(data)))
    for storage in scan.storages.values():
        entry = archive.entries.get(f"{folder}/data/{storage.key}")
        if entry is None or entry.size < storage.size:
            raise pickle.UnpicklingError("a storage is larger than what is stored of it")


def require_sound_pickles(file: BinaryIO, size: int) -> None:
    """Raise unless a checkpoint of the old kind is plain, and no larger than its file.

    Raises as `require_sound_archive` does.
    """
    for _ in range(PICKLES):
        scan = _require_plain(scan_pickle(file, size - file.tell()))
        if sum(storage.size for storage in scan.storages.values()) > size:
            raise pickle.UnpicklingError("its storages are larger than the file")


def _require_plain(scan: Scan) -> Scan:
    for name in sorted(scan.names):
        if not PLAIN.fullmatch(name) and name not in NUMPY:
            raise Foreign(f"{name:.80}")
    return scan


def say_keys(content: Mapping[Any, object]) -> str:
    """Say the first keys of a mapping; of anything but a text its type, which can be shown."""
    shown = []
    for key in itertools.islice(content, SHOWN):
        name = key if isinstance(key, str) else type(key).__name__
        shown.append(f"{name:.80}")
    return ", ".join(shown) or "nothing"
