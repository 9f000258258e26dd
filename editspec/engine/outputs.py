"""Guards of the outputs of commands: each refuses to overwrite foreign files."""

from __future__ import annotations

from pathlib import Path

from editspec_runtime.io.outputs import (
    EXPORT,
    EXPORT_FORMAT,
    PATCH,
    WEIGHTS,
    WEIGHTS_FOLDER,
    WEIGHTS_FORMAT,
    run_folder,
)

__all__ = [
    "EXPORT_FORMAT",
    "WEIGHTS_FORMAT",
    "require_free_export",
    "require_free_patch",
    "require_own_folder",
    "require_own_or_free",
    "require_own_or_free_folder",
]


def require_free_patch(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is not a patch."""
    PATCH.require_free(out)


def require_free_export(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that `export` did not write."""
    EXPORT.require_free(out)


def require_own_or_free(out: Path) -> None:
    """Raise a `FileError` where `out` is anything but weights that editspec wrote."""
    WEIGHTS.require_free(out)


def require_own_or_free_folder(out: Path) -> None:
    """Raise a `FileError` where `out` is anything but a folder of such weights."""
    WEIGHTS_FOLDER.require_free(out)


def require_own_folder(out: Path, mark: str, maker: str) -> None:
    """Raise a `FileError` unless `out` is new, empty, or a run of its `maker`.

    The file `mark` in a folder says that the maker ran there.
    """
    run_folder(mark, maker).require_free(out)
