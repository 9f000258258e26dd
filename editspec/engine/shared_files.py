"""Files that workers must find where the command has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from editspec_compiler import LoadedSpec
from editspec_runtime.errors import WorkerError
from editspec_runtime.executors.work import describe_worker
from editspec_runtime.families.travelling import COPIES
from editspec_runtime.io.shards import is_sharded

SHARE = "Put its folder on a file system that all machines share, at the same path."


@dataclass(frozen=True)
class SharedFiles:
    """The files of a spec, besides its weights, as the command has them.

    Attributes
    ----------
    digests
        The SHA-256 of each file, by its absolute path.
    """

    digests: Mapping[Path, str]

    @staticmethod
    def of(loaded: LoadedSpec) -> SharedFiles:
        """Read the spec and the files that its edits name."""
        paths = {loaded.path.absolute()}
        for number in range(len(loaded.spec.edits)):
            paths.update(path.absolute() for path in loaded.files(number).values())
        paths.discard(loaded.weights.absolute())
        return SharedFiles({path: _sha256(path) for path in sorted(paths) if path.is_file()})

    def require(self) -> None:
        """Raise a `WorkerError` where this machine lacks a file, or has another one."""
        for path, wanted in self.digests.items():
            if not path.is_file():
                raise WorkerError(f"{describe_worker()} does not find the file {path}.", SHARE)
            if _sha256(path) != wanted:
                raise WorkerError(
                    f"{describe_worker()} finds another file {path} than the command.", SHARE
                )


def session_memory(weights: Path) -> int:
    """Return the bytes that a session of weights needs at least; 0 where they are not there."""
    files = [weights]
    if weights.is_dir():
        files = list(weights.rglob("*"))
    elif is_sharded(weights):
        files = list(weights.parent.iterdir())
    return COPIES * sum(file.stat().st_size for file in files if file.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
