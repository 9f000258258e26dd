"""The one place that reads foreign files, and the one that writes.

Reading never runs code that a file brings and names what is wrong with it; writing goes beside the
final name and is renamed, so that nothing half-written ever lies under a final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from editspec_runtime.errors import FileError

if TYPE_CHECKING:
    from torch import Tensor


ABANDONED = 3600.0
"""Seconds after which a half-written file is taken for left behind."""


LEGACY_TORCH = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number that a torch checkpoint of the old kind begins with, in the order of its bytes."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header of a safetensors file says of one tensor: its dtype (``F32``, ``BF16``, …)
    and shape.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its tensors by name, and its metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def require_file(path: Path) -> None:
    """Raise a `FileError` unless `path` is a readable file."""
    try:
        directory, there = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error
    if directory:
        raise FileError(f"{path} is a directory, and a file was expected.")
    if not there:
        raise FileError(f"{path} does not exist.")
    if not path.is_file():
        raise FileError(f"{path} is not an ordinary file.")
    if not os.access(path, os.R_OK):
        raise FileError(f"{path} cannot be read: permission denied.")


def begins_with(path: Path, mark: bytes) -> bool:
    """Whether a file begins with these bytes. Raises `FileError` where it cannot be read."""
    require_file(path)
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def read_header(path: Path) -> Header:
    """Names, dtypes, shapes and metadata of a safetensors file, without its tensors and without
    torch.

    Raises `FileError` where the file is missing, a directory, truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            tensors = {
                name: TensorInfo(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()
            }
            return Header(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of each tensor of a safetensors file lie: name -> begin and end, in the order
    of the file.

    Raises `FileError` as `read_header` does, which has checked that these are sound.
    """
    read_header(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    spans = {
        name: tuple(entry["data_offsets"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return {
        name: (8 + length + begin, 8 + length + end)
        for name, (begin, end) in sorted(spans.items(), key=_place)
    }


def _place(entry: tuple[str, tuple[int, ...]]) -> tuple[int, ...]:
    return entry[1]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises `FileError` as `read_header` does."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_torch(path: Path) -> object:
    """What a ``.pt`` file holds, read with ``weights_only=True``: tensors and plain containers,
    never code.

    Raises `FileError` where the file is missing, damaged, or holds anything else.
    """
    import argparse

    import torch

    require_file(path)
    try:
        # rosinality's training keeps its command line in the checkpoint: a plain container, too.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader meets damage with errors of many kinds
        foreign = re.search(r"(?:GLOBAL|global|Unsupported class) ([\w.]+)", str(error))
        if foreign is None:
            raise _unreadable(
                path, "a readable torch checkpoint"
            ) from error  # torch says nothing to people here
        raise FileError(
            f"{path} holds more than tensors and plain containers ({foreign[1]}), and such a file can run code when "
            "it is read. It was not executed.",
            "Save the generator's state dict alone (or as .safetensors) in the environment that made the file.",
        ) from error


def read_pickle(path: Path) -> object:
    """What a ``.pkl`` file holds: plain containers, tensors, and modules as data
    (`pickles.Module`); never code.

    Raises `FileError` where the file is missing, damaged, or holds anything else, which is named.
    """
    from editspec_runtime.io import pickles

    require_file(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's old storages, which old pickles hold
            return pickles.load(file)
    except pickles.ForeignGlobal as error:
        raise FileError(
            f"{path} holds more than a generator, plain containers and tensors ({error.name}), and such a file can run "
            "code when it is read. It was not executed.",
            "A pickle of stylegan2-ada-pytorch or of the stylegan3 repository was expected; of any other model, save "
            "the generator's state dict (or a .safetensors) in the environment that made the file.",
        ) from error
    except Exception as error:  # the unpickler meets damage with errors of many kinds
        raise _unreadable(path, "a readable pickle", _first_line(error)) from error


def container(path: Path) -> str:
    """What a file of weights is by its first bytes: ``safetensors``, ``torch`` or ``pickle``; empty
    where unknown.

    A ``.pt`` of the time before torch 1.6 is a pickle that begins with a number of torch's own.
    """
    require_file(path)
    with path.open("rb") as file:
        head = file.read(32)
    # First: the length of a safetensors header may begin with the very bytes that a pickle begins
    # with.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30:
        return "safetensors"
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and LEGACY_TORCH in head):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return ""


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits. Raises `FileError` where it is
    missing.
    """
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> bytes:
    """A safetensors file whose metadata is the one key ``editspec``, holding canonical JSON.

    One key only: with two or more the library writes them in an order that differs from process to
    process.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, {"editspec": canonical_json(metadata)})


def read_editspec_metadata(header: Header, path: Path) -> dict[str, object]:
    """The JSON under the metadata key ``editspec``; empty where there is none. Raises `FileError`
    if damaged.
    """
    try:
        metadata = json.loads(header.metadata.get("editspec", "{}"))
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path}: its metadata is not JSON ({error}); the file is damaged."
        ) from error
    if not isinstance(metadata, dict):
        raise FileError(f"{path}: its metadata is not a JSON object; the file is damaged.")
    return metadata


def canonical_json(value: object) -> str:
    """ASCII JSON with sorted keys and no spaces: equal values give equal text. NaN and infinity are
    errors.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def write(path: Path, data: bytes) -> None:
    """Write `data` at once, as `writing` does."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that is renamed once it is written: a reader sees the old file or the
    new, never a part.

    Where the block raises, nothing is left. Raises `FileError` where the folder is missing or
    cannot be written, or a directory lies at `path`.
    """
    if path.is_dir():
        raise FileError(f"{path} is a directory, and a file was to be written there.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
        os.close(descriptor)
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.") from error
    part = Path(name)
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writes that were killed left beside their final names, once nobody can still be
    writing it.
    """
    for part in folder.rglob(".*.part"):
        try:
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
        except OSError:
            continue


def _umask() -> int:
    # mkstemp makes files that only their owner can read; ours are ordinary files. There is no call
    # that only reads the mask, so it is set and put back.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _damaged(path: Path, error: Exception) -> FileError:
    return _unreadable(path, "a whole safetensors file", _first_line(error))


STAND_INS = {
    b"version https://git-lfs": (
        "it is a pointer of git-lfs, which stands for the file",
        "Run git lfs pull there.",
    ),
    b"<": (
        "it is a web page",
        "Download the file itself: what was saved is the page about it, or one that says no.",
    ),
}
"""What often lies where a file of weights should, by how it begins; what it is, and what to do."""


def _unreadable(path: Path, wanted: str, reason: str = "") -> FileError:
    """The error of a file that is not `wanted`, with the `reason` of the library that read it,
    where it says one.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for mark, (what, hint) in STAND_INS.items():
        if head.startswith(mark):
            return FileError(f"{path} is not {wanted}: {what}.", hint)
    said = "" if not reason and head else f": {reason or 'it is empty'}"
    return FileError(
        f"{path} is not {wanted}{said}.",
        "It is truncated, corrupt, or of another format. Copy or build it again.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
