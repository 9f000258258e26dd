"""Who may overwrite what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editspec_runtime.errors import (
    EditError,
    FileError,
)
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
)
from editspec_runtime.io.shards import stored
from editspec_runtime.patches.patch import FORMAT as PATCH_FORMAT

if TYPE_CHECKING:
    pass


WEIGHTS_FORMAT = "editspec.weights"


EXPORT_FORMAT = "editspec.export"


def require_free_picture(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no picture of ours."""
    from editspec.modalities.image.pictures import is_own_picture

    if out.exists() and not is_own_picture(out):
        raise FileError(
            f"{out} is in the way: editspec did not make it.", "Remove it, or give another name."
        )


def require_free_patch(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no patch."""
    _require_free(out, PATCH_FORMAT)


def require_free_export(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that `export` did not write."""
    _require_free(out, EXPORT_FORMAT)


def require_own_or_free_folder(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that is no folder of weights that `apply`
    wrote.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        if not out.exists() or stored(out).metadata.get("format") == WEIGHTS_FORMAT:
            return
    except EditError:
        pass
    raise FileError(
        f"{out} is in the way: editspec did not write it.", "Remove it, or give another name."
    )


def require_own_folder(out: Path, mark: str, maker: str) -> None:
    """Raise a `FileError` unless `out` is new, empty, or holds the file `mark` of an earlier run of
    its `maker`.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / mark).is_file())):
        raise FileError(
            f"{out} is in the way: no {maker} of editspec made it.", "Give a new or empty folder."
        )


def require_own_or_free(out: Path) -> None:
    """Raise a `FileError` where something lies at `out` that neither `apply` nor `convert`
    wrote.
    """
    _require_free(out, WEIGHTS_FORMAT)


def _require_free(out: Path, own: str) -> None:
    """Raise a `FileError` where something lies at `out` that is no safetensors file of our format
    `own`.
    """
    if not out.exists():
        return
    try:
        if read_editspec_metadata(read_header(out), out).get("format") == own:
            return
    except EditError:
        pass
    raise FileError(
        f"{out} is in the way: editspec did not write it.", "Remove it, or give another name."
    )
