"""Files kept by content between runs.

The cache is optional: without it, work is done again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import platformdirs

from editspec_runtime.errors import FileError
from editspec_runtime.io.cache_use import mark_use
from editspec_runtime.io.digests import digest, tensors_digest
from editspec_runtime.io.files import (
    canonical_json,
    open_output,
    read_editspec_metadata,
    read_header,
    read_tensors,
    safetensors_bytes,
)
from editspec_runtime.io.remote_cache import RemoteCache, find_remote
from editspec_runtime.io.tensor_files import write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "EDITSPEC_CACHE"
"""The environment variable that says where the cache is."""

_cache: ContextVar[Path | None] = ContextVar("cache", default=None)

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and of the inode, of a file."""


def default_cache() -> Cache:
    """Find the cache: at ``$EDITSPEC_CACHE``, else that of `use_cache`, else the user's own.

    ``~`` is expanded. A remote cache that the environment names stands behind it.

    Raises `FileError` where ``~NAME`` is the home of a user whom this machine does not know, and
    `UsageError` where the address of the remote cache is wrong.
    """
    chosen = os.environ.get(VARIABLE)
    usual = _cache.get() or platformdirs.user_cache_dir("editspec", appauthor=False)
    try:
        root = Path(chosen or usual).expanduser()
    except RuntimeError as error:
        raise FileError(
            f"{VARIABLE} is {chosen}, the home of a user whom this machine does not know.",
            "Write the whole path.",
        ) from error
    return Cache(root, find_remote())


@contextmanager
def use_cache(folder: Path) -> Iterator[None]:
    """A context in which commands keep their cache in a folder, unless the environment has one."""
    token = _cache.set(folder)
    try:
        yield
    finally:
        _cache.reset(token)


@dataclass(frozen=True)
class Cache:
    """A folder of entries, each named by a digest of what it was computed from.

    Two processes may fill one entry at a time: both write the same bytes, and each puts its file
    into place at once. A cache that cannot be written costs one warning, and nothing else.

    Attributes
    ----------
    root
        The folder.
    remote
        The server that is asked for what the folder lacks; None without any.
    """

    root: Path
    remote: RemoteCache | None = None

    def path(self, kind: str, key: str) -> Path:
        """The place of the entry `key` of a `kind`, such as ``statistics``."""
        return self.root / kind / f"{key}.safetensors"

    def tensors(
        self, kind: str, key: str, compute: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], bool]:
        """Find the tensors of an entry, or compute and keep them.

        An entry that is damaged is computed again. The second value says whether the tensors were
        found.
        """
        found = self.find(kind, key)
        if found is not None:
            return found, True
        tensors = compute()
        self.put(kind, key, tensors)
        return tensors, False

    def fetch(self, kind: str, key: str) -> Path:
        """Return the place of an entry, which the remote cache fills where the folder lacks it."""
        path = self.path(kind, key)
        if self.remote is not None and identify_file(path) is None:
            data = self.remote.get(kind, key)
            if data is not None:
                self._write(path, lambda file: file.write(data))
        return path

    def put(self, kind: str, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep the tensors of an entry, in the place of those that it had."""
        # What tells an entry that was damaged, changed or moved later from one that is whole.
        metadata = {"entry": _entry_digest(kind, key, tensors)}
        said = {"editspec": canonical_json(metadata)}
        # Tensor by tensor: a copy of the second moment of a large layer takes a gigabyte.
        self._write(self.path(kind, key), lambda file: write_safetensors(file, tensors, said))
        if self.remote is not None:
            self.remote.put(kind, key, safetensors_bytes(tensors, metadata))

    def find(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Find the tensors of an entry; None unless they are there as they were written.

        The content is hashed when a process reads it first, and compared with the digest that the
        entry carries. The digest binds the content to the name: an entry that was made under
        another name, or changed, is not taken.
        """
        path = self.fetch(kind, key)
        self.mark_use(path)
        before = identify_file(path)
        if before is None:
            return None
        try:
            stated = read_editspec_metadata(read_header(path), path).get("entry")
            tensors = read_tensors(path)
            if (before, stated) in _checked and identify_file(path) == before:
                return tensors
            if stated != _entry_digest(kind, key, tensors):
                return None
        # A foreign dtype, JSON that nests without end: whatever is wrong, it is no entry.
        except (FileError, OSError, LookupError, ValueError, TypeError, RecursionError):
            return None
        if identify_file(path) == before:
            _checked.add((before, stated))
        return tensors

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, if it is there and may be removed."""
        with suppress(OSError):
            self.path(kind, key).unlink()

    def keep(self, kind: str, key: str, data: bytes) -> None:
        """Keep a file whose content `key` names, unless the cache holds it already."""
        path = self.path(kind, key)
        self.mark_use(path)
        with suppress(OSError):
            if path.read_bytes() == data:
                return
        self._write(path, lambda file: file.write(data))
        if self.remote is not None:
            self.remote.put(kind, key, data)

    def mark_use(self, entry: Path) -> None:
        """Note the use of an entry, so that nobody prunes it while this process runs."""
        mark_use(self.root, entry)

    def _write(self, path: Path, fill: Callable[[BinaryIO], object]) -> None:
        """Write a file of the cache; where that fails, warn once and go on without it."""
        try:
            with open_output(path) as file:
                fill(file)
        except FileError as error:
            self.warn(error.message)
        except OSError as error:
            self.warn(f"Cannot write {path}: {error.strerror or error}.")

    def warn(self, reason: str) -> None:
        """Say on stderr, once per process, that this cache cannot be written."""
        if self.root in _warned:
            return
        _warned.add(self.root)
        sys.stderr.write(
            f"warning: The cache {self.root} cannot be written, and results are not kept: "
            f"{reason}\n  Set {VARIABLE} to a folder that can be written.\n"
        )


_warned: set[Path] = set()
"""The caches that were warned of."""

_checked: set[tuple[Identity, object]] = set()
"""The entries whose content was found to have the digest that they state."""

_hashed: dict[Identity, str] = {}
"""SHA-256 of the large files that were hashed."""


def identify_file(path: Path) -> Identity | None:
    """Identify this state of a file among others; None where there is no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def hash_once(path: Path) -> str:
    """SHA-256 of a file, hashed once per process as long as the file stays as it is.

    Raises `OSError` where the file cannot be read.
    """
    before = identify_file(path)
    if before is not None and before in _hashed:
        return _hashed[before]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if before is not None and identify_file(path) == before:
        _hashed[before] = found
    return found


def _entry_digest(kind: str, key: str, tensors: dict[str, Tensor]) -> str:
    """The digest of the content of an entry, bound to its name."""
    return digest({"kind": kind, "key": key, "tensors": tensors_digest(tensors)})
