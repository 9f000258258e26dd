"""The entries of a cache: their sizes, when they were last used, their removal."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from editspec_runtime.io.cache import Cache
from editspec_runtime.io.cache_use import first_use
from editspec_runtime.io.files import remove_abandoned

KINDS = {
    "blocks": "parts of second moments that are not finished",
    "hub": "files of the Hugging Face Hub",
    "keys": "sampled keys",
    "losses": "losses of solvers",
    "patches": "patches",
    "quantiles": "quantiles of activations",
    "recipes": "files of recipes from git",
    "rules": "resolved rules",
    "solutions": "solutions of edits",
    "statistics": "second moments",
    "weights": "weights that were fetched",
}
"""The kinds of entries, each a folder of the cache. Nothing else in the folder is touched."""

FOLDERS = ("hub", "recipes", "weights")
"""The kinds whose entries are folders."""

NAME = re.compile(r"[0-9a-f]{16,128}(\.safetensors)?|models--.+")
"""The names of entries: digests, and repositories of the Hub."""

MARGIN = 60.0
"""Seconds before the first running process by which an entry counts as used by it."""


@dataclass(frozen=True)
class Entry:
    """An entry: its kind, place, bytes, and last use, in seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


def list_entries(cache: Cache) -> list[Entry]:
    """List the entries of a cache in the order of their kinds and names."""
    found = []
    for kind in KINDS:
        folder = cache.root / kind
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in sorted(folder.iterdir()):
            if NAME.fullmatch(path.name) is None or path.is_symlink():
                continue
            if path.is_dir() == (kind in FOLDERS):
                with suppress(OSError):
                    found.append(_measure(kind, path))
    return found


def prune(cache: Cache, older_than: float, larger_than: int) -> list[Entry]:
    """Remove the entries that are old and large, and return them.

    Whatever a running command has used stays, and so does what cannot be removed.

    Parameters
    ----------
    older_than
        The seconds since the last use; 0: any.
    larger_than
        The bytes that an entry has more of; below 0: any.
    """
    removed = []
    now = time.time()
    for entry in list_entries(cache):
        if entry.size <= larger_than or now - entry.used < older_than:
            continue
        # Asked for each, as late as can be: a command may have begun since.
        if _is_used(cache, entry):
            continue
        if _remove(entry.path):
            removed.append(entry)
    for kind in KINDS:
        remove_abandoned(cache.root / kind)
    return removed


def _is_used(cache: Cache, entry: Entry) -> bool:
    began = first_use(cache.root)
    if began is None:
        return False
    # A file of the Hub is linked to from others, whose use says nothing about it.
    if entry.kind == "hub":
        return True
    try:
        used = _measure(entry.kind, entry.path).used
    except OSError:
        return True
    return used > began - MARGIN


def _measure(kind: str, path: Path) -> Entry:
    size, used = 0, 0.0
    for each in _walk(path):
        state = each.lstat()
        used = max(used, state.st_mtime)
        # To list a folder is an access, too, and says nothing.
        if each.is_file() and not each.is_symlink():
            size += state.st_size
            used = max(used, state.st_atime)
    return Entry(kind, path, size, used)


def _walk(path: Path) -> Iterator[Path]:
    yield path
    for folder, _, files in os.walk(path):
        for name in files:
            yield Path(folder, name)


def _remove(path: Path) -> bool:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    return True
