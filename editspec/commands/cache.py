"""``editspec cache``: where the cache is, its size, its pruning; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editspec.engine.resources import Resources
from editspec.engine.result import CommandResult
from editspec_runtime.errors import UsageError
from editspec_runtime.io.cache_entries import KINDS, Entry, list_entries
from editspec_runtime.io.cache_entries import prune as prune_entries

PRUNE = "prune"
DAY = 86_400.0
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True)
class CacheKind:
    """The entries of one kind: what they are, how many, and their bytes together."""

    name: str
    description: str
    entries: int
    bytes: int


@dataclass(frozen=True)
class CacheResult(CommandResult):
    """A cache as it is now.

    Attributes
    ----------
    folder
        Where the cache is.
    kinds
        The kinds that have entries.
    entries, bytes
        The count of all entries, and their bytes.
    removed, removed_bytes
        The count of the entries that were pruned, and their bytes; None where none were to be.
    """

    folder: Path
    kinds: tuple[CacheKind, ...]
    entries: int
    bytes: int
    removed: int | None = None
    removed_bytes: int | None = None

    def to_text(self) -> str:
        """The folder, a line for each kind, and what was pruned."""
        lines = [f"{self.folder}: {self.entries} entries, {_describe_size(self.bytes)}"]
        for kind in self.kinds:
            size = _describe_size(kind.bytes)
            lines.append(f"  {kind.name}: {kind.entries}, {size} ({kind.description})")
        if self.removed is not None and self.removed_bytes is not None:
            size = _describe_size(self.removed_bytes)
            lines.append(f"pruned: {self.removed} entries, {size}")
        return "\n".join(lines)


def cache(
    action: str | None = None,
    *,
    older_than: float | None = None,
    larger_than: str | int | None = None,
) -> CacheResult:
    """Describe the cache, or remove old and large entries of it.

    An entry that is removed is computed or fetched again when it is needed. Nothing that a running
    command has used is removed.

    Parameters
    ----------
    action
        ``prune`` removes entries. Default: the cache is described alone.
    older_than
        Remove only what was not used for so many days.
    larger_than
        Remove only what is larger than so many bytes; ``500M`` and ``2G`` are sizes, too.

    Raises
    ------
    UsageError
        The action is unknown, a number is not one, or nothing says what is to be pruned.
    """
    found = Resources().cache
    if action is None:
        if older_than is not None or larger_than is not None:
            raise UsageError(
                "--older-than and --larger-than belong to prune.", "Write editspec cache prune."
            )
        return _describe(found.root, list_entries(found))
    if action != PRUNE:
        raise UsageError(f"There is no action {action}.", "Write editspec cache, or cache prune.")
    if older_than is None and larger_than is None:
        raise UsageError(
            "Nothing says what is to be pruned.",
            "Give --older-than DAYS, --larger-than SIZE, or both; --older-than 0 means everything.",
        )
    if older_than is not None and not 0 <= older_than < 1e6:
        raise UsageError(f"{older_than} is not a number of days.", "Write --older-than 30.")
    size = -1 if larger_than is None else _read_size(larger_than)
    removed = prune_entries(found, (older_than or 0) * DAY, size)
    removed_bytes = sum(entry.size for entry in removed)
    return _describe(found.root, list_entries(found), len(removed), removed_bytes)


def _describe(
    root: Path,
    entries: Sequence[Entry],
    removed: int | None = None,
    removed_bytes: int | None = None,
) -> CacheResult:
    kinds = []
    for name, description in KINDS.items():
        sizes = [entry.size for entry in entries if entry.kind == name]
        if sizes:
            kinds.append(CacheKind(name, description, len(sizes), sum(sizes)))
    total = sum(entry.size for entry in entries)
    return CacheResult(root, tuple(kinds), len(entries), total, removed, removed_bytes)


def _read_size(given: str | int) -> int:
    """Read a number of bytes. Raises `UsageError`."""
    found = SIZE.fullmatch(str(given).strip())
    if found is None:
        raise UsageError(f"{given} is not a size.", "Write bytes, or a size such as 500M or 2G.")
    number, unit = found.groups()
    return int(float(number) * UNITS[unit.upper()])


def _describe_size(size: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
