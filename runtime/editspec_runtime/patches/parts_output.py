"""The folder of several models that a stack is written to, beside the one that it comes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from editspec_runtime.errors import FileError
from editspec_runtime.io.parts import EDITED, other_weights
from editspec_runtime.io.shards import Stored, StoredFile

PlaceOf = Callable[..., Path | None]
"""A function from a file, or from None and the name of an index, to the place of its output.

The place is None for a file that is not written.
"""


def lay_out_parts(weights: Stored, root: Path) -> PlaceOf:
    """Fill a folder with all of a model but the weights that are written.

    Files are linked, or copied where links cannot be made. Other weights of the edited model, such
    as those of another precision, are left out: they are not edited.
    """
    assert weights.folder is not None
    folder = weights.folder
    written = [file.path for file in weights.files if file.part == EDITED]
    if weights.index is not None:
        written.append(folder / EDITED / weights.index[0])
    left_out = {*written, *other_weights(folder / EDITED, written)}
    for path in sorted(folder.rglob("*")):
        place = root / path.relative_to(folder)
        if path.is_symlink() and not path.exists():
            raise FileError(f"{path} is a link to nothing.", "Get the folder again.")
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path not in left_out:
            _link(path, place)

    def place_of(file: StoredFile | None, name: str | None = None) -> Path | None:
        if file is None:
            assert name is not None
            return root / EDITED / name
        return root / EDITED / file.path.name if file.part == EDITED else None

    return place_of


def _link(path: Path, place: Path) -> None:
    """Link a file to another place, or copy it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        # What a link of a cache leads to, and not the link.
        os.link(path.resolve(), place)
    except OSError:
        shutil.copyfile(path, place)
