"""Files kept by content between runs. Two processes may fill the same entry at once: both write the
same bytes.
"""

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
    return Cache(
        Path(
            os.environ.get("EDITSPEC_CACHE")
            or platformdirs.user_cache_dir("editspec", appauthor=False)
        )
    )


@dataclass(frozen=True)
class Cache:
    """A folder of entries, each named by the digest of everything that it was computed from."""

    root: Path

    def path(self, kind: str, key: str) -> Path:
        """Where the entry `key` of a `kind` (such as ``statistics``) lies."""
        return self.root / kind / f"{key}.safetensors"

    def tensors(
        self, kind: str, key: str, compute: Callable[[], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], bool]:
        """The tensors of an entry, computed and kept where there is none yet, and whether they were
        there.

        An entry that is damaged is computed again.
        """
        found = self.find(kind, key)
        if found is not None:
            return found, True
        tensors = compute()
        write(
            self.path(kind, key), safetensors_bytes(tensors, {"tensors": tensors_digest(tensors)})
        )
        return tensors, False

    def find(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry; None where there is none, or it is damaged."""
        return _intact(self.path(kind, key))

    def remove(self, kind: str, key: str) -> None:
        """Remove an entry, if it is there."""
        self.path(kind, key).unlink(missing_ok=True)

    def keep(self, kind: str, key: str, data: bytes) -> None:
        """Keep a file whose content `key` names, unless it is there already as it should be."""
        path = self.path(kind, key)
        if not (path.is_file() and path.read_bytes() == data):
            write(path, data)


def _intact(path: Path) -> dict[str, Tensor] | None:
    """The tensors at `path`; None where nothing lies there or what lies there is not what was
    written.
    """
    try:
        expected = read_editspec_metadata(read_header(path), path).get("tensors")
        tensors = read_tensors(path)
    except FileError:
        return None
    return tensors if tensors_digest(tensors) == expected else None
