"""Files kept by content between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from editspec_runtime.errors import FileError
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
    read_tensors,
    safetensors_bytes,
    write,
)

if TYPE_CHECKING:
    from torch import Tensor


def default_cache() -> Cache:
    """The cache at ``$EDITSPEC_CACHE``, else in the user's cache folder."""
    chosen = os.environ.get("EDITSPEC_CACHE")
    usual = platformdirs.user_cache_dir("editspec", appauthor=False)
    return Cache(Path(chosen or usual))


@dataclass(frozen=True)
class Cache:
    """A folder of entries, each named by a digest of what it was computed from.

    Two processes may fill one entry at a time: both write the same bytes, and each puts its file
    into place at once.
    """

    root: Path

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
        # The digest is what tells an entry that was damaged later from one that is whole.
        data = safetensors_bytes(tensors, {"tensors": tensors_digest(tensors)})
        write(self.path(kind, key), data)
        return tensors, False

    def find(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Find the tensors of an entry; None where it is missing or damaged."""
        return _read_intact(self.path(kind, key))

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, if it is there."""
        self.path(kind, key).unlink(missing_ok=True)

    def keep(self, kind: str, key: str, data: bytes) -> None:
        """Keep a file whose content `key` names, unless the cache holds it already."""
        path = self.path(kind, key)
        if not (path.is_file() and path.read_bytes() == data):
            write(path, data)


def _read_intact(path: Path) -> dict[str, Tensor] | None:
    """Read the tensors at `path`; None unless they are there as they were written."""
    try:
        expected = read_editspec_metadata(read_header(path), path).get("tensors")
        tensors = read_tensors(path)
    except FileError:
        return None
    return tensors if tensors_digest(tensors) == expected else None
