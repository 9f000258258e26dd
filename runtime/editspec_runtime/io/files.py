"""The one place that reads foreign files, and the one that writes.

Reading never runs code that a file brings, and names what is wrong with the file. Writing goes to a
name of its own beside the final one and is renamed, so that nothing half-written ever lies under a
final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from editspec_runtime.errors import FileError, WrongPath
from editspec_runtime.io.file_names import find_hint
from editspec_runtime.io.headers import TORCH_DTYPES, Header, TensorInfo, parse_header
from editspec_runtime.io.json_text import JsonError, parse_json

if TYPE_CHECKING:
    from torch import Tensor


try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

ABANDONED = 3600.0
"""Seconds after which a half-written file is taken for left behind, held or not."""

UNHELD = 0.5
"""Seconds within which a file that was just made may not be held yet."""

PART = re.compile(r"\..*\.[0-9a-f]{16}\.part")
"""The names of half-written files."""


LONGEST_NAME = 1000
"""The most characters of a tensor's name."""

LEGACY_TORCH = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number that a torch checkpoint of the old kind begins with, in the order of its bytes."""


def require_file(path: Path) -> None:
    """Raise a `FileError` unless `path` is a readable file."""
    try:
        directory, there = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise FileError(
            f"{path} cannot be read: {error.strerror}.",
            "Check the name, and who may enter its folder.",
        ) from error
    if directory:
        raise WrongPath(
            f"{path} is a directory, and a file was expected.", "Give a file that lies in it."
        )
    if not there:
        meant = find_hint(str(path), Path())
        usual = "Check the name, and the folder that it is given from."
        raise WrongPath(f"{path} does not exist.", _as_sentence(meant) if meant else usual)
    if not path.is_file():
        raise FileError(
            f"{path} is not an ordinary file.", "Copy its content to a file, and give that."
        )
    if not os.access(path, os.R_OK):
        raise FileError(
            f"{path} cannot be read: permission denied.", "Give yourself permission to read it."
        )


def _as_sentence(hint: str) -> str:
    """Write a hint of a few words as a sentence."""
    end = "" if hint.endswith("?") else "."
    return f"{hint[0].upper()}{hint[1:]}{end}"


def begins_with(path: Path, mark: bytes) -> bool:
    """Whether a file begins with a mark. Raises `FileError` if it is unreadable."""
    require_file(path)
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, without its tensors, numpy and torch.

    Raises `FileError` where the file is missing, a directory, truncated or not a safetensors file.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            header = parse_header(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        raise unreadable(path, "a whole safetensors file") from error
    require_printable(path, header.tensors)
    return header


def require_printable(path: Path, names: Iterable[str]) -> None:
    """Raise a `FileError` where a name could steer a terminal, or break a line."""
    for name in names:
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise FileError(
                f"{path} has a tensor named {name!r:.80}, and names are printable and have at most "
                f"{LONGEST_NAME} characters.",
                "It was not written by any training that is known here. Do not use it.",
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file to the CPU, each to memory of its own.

    Where they lie in the file does not count then: on some processors products add in another order
    where memory begins at an odd place.

    Raises `FileError` as `read_header` does.
    """
    header = read_header(path)
    if all(info.dtype in TORCH_DTYPES for info in header.tensors.values()):
        return {
            name: read_tensor(path, *header.offsets[name], header.tensors[name])
            for name in header.offsets
        }
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise unreadable(path, "a whole safetensors file") from error


def read_tensor(path: Path, begin: int, end: int, info: TensorInfo) -> Tensor:
    """Read a tensor of one of `TORCH_DTYPES` from the bytes `begin` to `end` of a file.

    Raises `FileError` where the file ends before.
    """
    import torch

    data = torch.empty(end - begin, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(begin)
        if file.readinto(data.numpy().data) != len(data):
            raise FileError(
                f"{path} became shorter while it was read.", "Get it again, and run once more."
            )
    dtype: torch.dtype = getattr(torch, TORCH_DTYPES[info.dtype])
    return data.view(dtype).view(info.shape)


def detect_container(path: Path) -> str:
    """Tell the kind of a file of weights by its first bytes; empty where unknown.

    The kinds are ``safetensors``, ``torch`` and ``pickle``. A ``.pt`` of the time before torch 1.6
    is a pickle that begins with a number of torch's own.
    """
    require_file(path)
    with path.open("rb") as file:
        head = file.read(32)
    # This test comes first: the length of a safetensors header may begin with the very bytes that
    # a pickle begins with.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30:
        return "safetensors"
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and LEGACY_TORCH in head):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return ""


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits.

    Raises `FileError` where the file is missing.
    """
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> bytes:
    """A safetensors file with canonical JSON under its one metadata key ``editspec``."""
    from safetensors.torch import save

    # One key only: the library writes two or more in an order that differs from process to process.
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        # The library takes no two tensors of one storage, which a checkpoint may hold.
        place = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if place in memory else own
        memory.add(place)
    return save(plain, {"editspec": canonical_json(metadata)})


def read_editspec_metadata(header: Header, path: Path) -> dict[str, object]:
    """Read the JSON under the metadata key ``editspec``; empty where there is none.

    Raises `FileError` where the metadata are damaged.
    """
    return parse_editspec_metadata(header.metadata.get("editspec", "{}"), path)


def parse_editspec_metadata(text: str, path: Path) -> dict[str, object]:
    """Read the text of our own metadata in a file. Raises `FileError` for damage."""
    try:
        metadata = parse_json(text)
    except JsonError as error:
        raise FileError(
            f"{path} is damaged: its metadata is not JSON.", "Copy or build it again."
        ) from error
    if not isinstance(metadata, dict):
        raise FileError(
            f"{path} is damaged: its metadata is not a JSON object.", "Copy or build it again."
        )
    return metadata


def canonical_json(value: object) -> str:
    """ASCII JSON with sorted keys and no spaces: equal values give equal text.

    Raises `ValueError` for NaN and infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def write(path: Path, data: bytes) -> None:
    """Write `data` at once, as `open_output` does."""
    with open_output(path) as file:
        file.write(data)


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is renamed to `path` once it is written.

    A reader sees the old file or the new one, never a part. Where the block raises, nothing is
    left. Raises `FileError` where the folder cannot be made or written, or a directory lies at
    `path`.
    """
    if path.is_dir():
        raise FileError(
            f"{path} is a directory, and a file was to be written there.", "Give another name."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        # An ordinary file: the system takes away what the mask of the process forbids.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with part.open("w+b") as file:
            # Held until it is written, and let go of by whatever ends the process.
            try_lock(file)
            yield file
            # On the disk before the new name is: a power cut leaves the old file or the new one.
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def remove_abandoned(folder: Path, pattern: str = "**/.*.part") -> None:
    """Remove what killed writes left in a folder, at the paths of a pattern.

    Nobody holds such a file. Where files cannot be held, one that is old enough is left behind.
    """
    for part in folder.glob(pattern):
        try:
            if _is_abandoned(part):
                part.unlink()
        except OSError:
            continue


def _is_abandoned(part: Path) -> bool:
    """Whether no process writes a half-written file any more."""
    age = time.time() - part.stat().st_mtime
    if age > ABANDONED:
        return True
    if age < UNHELD or part.is_symlink() or PART.fullmatch(part.name) is None:
        return False
    with part.open("rb") as file:
        return try_lock(file)


def try_lock(file: BinaryIO | int) -> bool:
    """Lock a file or a descriptor until it is closed; False where it cannot be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unwritable(path: Path, error: OSError) -> FileError:
    """The error of a file that cannot be written, with the system's reason."""
    return FileError(
        f"Cannot write {path}: {error.strerror or error}.",
        "Check the room on the disk and who may write there, or give another place.",
    )


STAND_INS = {
    b"version https://git-lfs": (
        "it is a pointer of git-lfs, which stands for the file",
        "Run git lfs pull there.",
    ),
    b"GGUF": (
        "it is a GGUF file, whose numbers may be quantised",
        "Make a folder of it by editspec convert MODEL.gguf FOLDER, and give that.",
    ),
    b"<": (
        "it is a web page",
        "Download the file itself: what was saved is the page about it, or one that says no.",
    ),
}
"""Names and hints for files that often lie where weights should, by their first bytes."""


def unreadable(path: Path, wanted: str) -> FileError:
    """The error of a file that is not `wanted`, such as ``a readable pickle``."""
    with path.open("rb") as file:
        head = file.read(64)
    for mark, (what, hint) in STAND_INS.items():
        if head.startswith(mark):
            return FileError(f"{path} is not {wanted}: {what}.", hint)
    reason = "" if head else ": it is empty"
    return FileError(
        f"{path} is not {wanted}{reason}.",
        "It is truncated, corrupt, or of another format. Copy or build it again.",
    )
