"""Marks of what running commands use of a cache, so that nothing of it is pruned."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from editspec_runtime.io.files import UNHELD, try_lock

RUNNING = "running"
"""The folder of a cache with a file for each running process, which holds its file."""

MOST_CACHES = 8
"""The caches of one process that are held at a time; the first is let go of for a ninth."""

_registered: dict[tuple[Path, int], int] = {}
"""The descriptor that a process holds in a cache; by process, too, as a fork is another one."""


def mark_use(root: Path, entry: Path) -> None:
    """Note that this process uses an entry of the cache at `root`, as of now.

    Nothing is noted in a cache that cannot be written, which cannot be pruned, either.
    """
    _register(root)
    with suppress(OSError):
        if entry.is_dir():
            # To list a folder is an access, too; its last change is a mark of use alone.
            os.utime(entry)
            return
        state = entry.stat()
        held = _registered.get((root, os.getpid()))
        # One mark for each process is enough. Another would change the state by which a file that
        # was hashed is known, and it would be hashed again.
        if held is not None and state.st_atime_ns >= os.fstat(held).st_mtime_ns:
            return
        # The time of its last change stays: it tells one state of a file from others.
        os.utime(entry, ns=(time.time_ns(), state.st_mtime_ns))


def first_use(root: Path) -> float | None:
    """Find when the first running process began to use a cache; None without any."""
    began: list[float] = []
    for path in (root / RUNNING).glob("*"):
        with suppress(OSError), path.open("rb") as file:
            since = path.stat().st_mtime
            # A file that was just made may not be held yet.
            if not try_lock(file) or time.time() - since < UNHELD:
                began.append(since)
                continue
            # Whoever held it has ended.
            path.unlink()
    return min(began, default=None)


def _register(root: Path) -> None:
    """Hold a file in the cache for as long as this process runs."""
    key = root, os.getpid()
    if key in _registered or not root.is_dir():
        return
    with suppress(OSError):
        folder = root / RUNNING
        folder.mkdir(exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        # A descriptor, and not a file of Python: it stays open until the process ends.
        held = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try_lock(held)
        while len(_registered) >= MOST_CACHES:
            os.close(_registered.pop(next(iter(_registered))))
        _registered[key] = held
