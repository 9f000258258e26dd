"""The files of patches: their names, and those of a folder in their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from editspec_runtime.errors import WrongPath
from editspec_runtime.io.files import read_editspec_metadata, read_header

PATCHES = "patches"
"""The folder of a build that holds its patches."""


def number_files(names: Iterable[str]) -> list[str]:
    """Name the file of each edit so that the names sort in the order of the edits.

    Numbers have as many digits as the last one, and at least two.
    """
    listed = list(names)
    digits = max(2, len(str(len(listed))))
    return [f"{number:0{digits}d}-{name}.safetensors" for number, name in enumerate(listed, 1)]


def list_patch_files(paths: Sequence[Path | str]) -> list[Path]:
    """List the files of a stack; a build's folder stands for its patches in order.

    Raises `FileError` where a folder holds no patches.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += list_folder_patches(path)
        else:
            files.append(path)
    return files


def list_folder_patches(folder: Path) -> list[Path]:
    """List the patches of a build, each after the one whose weights it was solved on.

    Their names do not count: each patch names the weights before it and after it. Patches that
    follow no other come last, and whoever requires a chain refuses them.

    Raises `WrongPath` where the folder holds no patches.
    """
    inside = folder / PATCHES
    # The folder of the patches itself is as good.
    place = inside if inside.is_dir() else folder
    found = sorted(place.glob("*.safetensors"))
    if not found or (place is folder and folder.name != PATCHES):
        raise WrongPath(
            f"{folder} is a directory, and it holds no patches of a build.",
            "Give patches, or the folder that editspec build made.",
        )
    return _sort_by_chain({path: _read_metadata(path) for path in found})


def _read_metadata(path: Path) -> dict[str, Any]:
    return read_editspec_metadata(read_header(path), path)


def _sort_by_chain(metadata: dict[Path, dict[str, Any]]) -> list[Path]:
    """Sort patches so that each is solved on the result of the one before it."""
    results = {str(said.get("result")) for said in metadata.values() if _changes(said)}
    left = dict(metadata)
    # The first is solved on weights that no other patch leaves.
    weights = next(
        (
            said.get("parent")
            for said in metadata.values()
            if str(said.get("parent")) not in results
        ),
        None,
    )
    ordered: list[Path] = []
    while following := [path for path, said in left.items() if said.get("parent") == weights]:
        # A patch that changes nothing leaves the weights that others follow, too.
        following.sort(key=lambda path: (_changes(left[path]), path))
        ordered.append(following[0])
        weights = left.pop(following[0]).get("result")
    return ordered + sorted(left)


def _changes(metadata: dict[str, Any]) -> bool:
    """Whether the weights after a patch are others than those before it."""
    return metadata.get("parent") != metadata.get("result")
