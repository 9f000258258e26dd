"""Kinds of outputs, each of which replaces only what editspec made of that kind.

Every kind of output is one `Output`. It is asked before the work whose result it would hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from editspec_runtime.errors import EditError, FileError, UsageError
from editspec_runtime.io.files import (
    PART,
    begins_with,
    parse_editspec_metadata,
    read_editspec_metadata,
    read_header,
    remove_abandoned,
)
from editspec_runtime.io.marks import read_metadata
from editspec_runtime.io.shards import read_stored

PATCH_FORMAT = "editspec.patch"
WEIGHTS_FORMAT = "editspec.weights"
EXPORT_FORMAT = "editspec.export"

VERSION = re.compile(r"\.\d\w*")
"""What is no ending, as in ``edited-1.5``."""

SAFETENSORS = (".safetensors",)
FILES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".json", ".yaml", ".zip")
"""Endings that people would take a folder for a file by."""

IN_THE_WAY = "{path} is in the way: "
ANOTHER_NAME = "Remove it, or give another name."
NEW_FOLDER = "Give a new or empty folder."


@dataclass(frozen=True)
class Output:
    """A kind of output.

    Attributes
    ----------
    is_own
        Whether what lies at a path may be overwritten. An `EditError` that it raises says no.
    message, hint
        Of the error about anything else; ``{path}`` stands for the path.
    endings
        The endings that names of this kind have, the usual one first. A name may have none. Empty:
        any.
    """

    is_own: Callable[[Path], bool]
    message: str = f"{IN_THE_WAY}editspec did not write it."
    hint: str = ANOTHER_NAME
    endings: tuple[str, ...] = ()

    def require_free(self, path: Path) -> None:
        """Raise an error where an output of this kind cannot go to `path`.

        Raises
        ------
        FileError
            Something lies there that may not be overwritten, or nothing can be written there.
        UsageError
            Its ending is that of another kind.
        """
        if path.exists():
            self._require_own(path)
        if path.is_dir():
            remove_abandoned(path, ".*.part")
        require_ending(path, self.endings)
        require_writable(path)

    def _require_own(self, path: Path) -> None:
        try:
            own = self.is_own(path)
        except EditError:
            own = False
        if not own:
            raise FileError(self.message.format(path=path), self.hint)


def require_writable(path: Path) -> None:
    """Raise a `FileError` where a file or folder cannot be made or replaced.

    A work of minutes is not to end with that.
    """
    folder = path if path.is_dir() else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise FileError(
            f"{path} cannot be written: {folder} is a file, and not a folder.", "Give another name."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(
            f"{path} cannot be written: {folder} may not be changed.",
            "Give a name elsewhere, or ask who owns that folder.",
        )


def name_ending(path: Path) -> str:
    """The ending of a name, in small letters; empty where there is none."""
    suffix = path.suffix.lower()
    return "" if VERSION.fullmatch(suffix) else suffix


def require_ending(path: Path, endings: Sequence[str]) -> None:
    """Raise a `UsageError` where a name has another ending than those of a kind."""
    ending = name_ending(path)
    if endings and ending and ending not in endings:
        raise UsageError(
            f"{path} cannot be written: what goes there has the ending {' or '.join(endings)}, "
            f"and not {ending}.",
            f"Give a name that ends in {endings[0]}.",
        )


def list_names(folder: Path) -> set[str]:
    """List what is in a folder, without what killed writes left there."""
    names = {each.name for each in folder.iterdir()}
    return {name for name in names if not PART.fullmatch(name)}


def has_format(name: str) -> Callable[[Path], bool]:
    """The test whether a path holds a safetensors file of one of our formats."""
    return lambda path: read_editspec_metadata(read_header(path), path).get("format") == name


def has_mark(mark: bytes) -> Callable[[Path], bool]:
    """The test whether a file begins with a mark of ours."""
    return lambda path: begins_with(path, mark)


def has_content(data: bytes) -> Callable[[Path], bool]:
    """The test whether a file holds these bytes already."""
    return lambda path: path.is_file() and path.read_bytes() == data


def holds_nothing_but(
    names: Collection[str], own: Callable[[Path], bool]
) -> Callable[[Path], bool]:
    """The test whether a folder is empty, or holds our own files of these names alone.

    `own` tells whether the file of the first name is our own.
    """
    first = next(iter(names))

    def is_own(path: Path) -> bool:
        if not path.is_dir():
            return False
        found = list_names(path)
        if not found:
            return True
        return own(path / first) and found <= set(names)

    return is_own


def is_empty_folder_or(own: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """The test whether a path is an empty folder, or something of our own."""

    def is_own(path: Path) -> bool:
        if path.is_dir() and not list_names(path):
            return True
        return own(path)

    return is_own


def _is_weights_folder(path: Path) -> bool:
    return read_stored(path).metadata.get("format") == WEIGHTS_FORMAT


def _is_weights_file(path: Path) -> bool:
    said = parse_editspec_metadata(read_metadata(path).get("editspec", "{}"), path)
    return said.get("format") == WEIGHTS_FORMAT


PATCH = Output(has_format(PATCH_FORMAT), endings=SAFETENSORS)
WEIGHTS = Output(_is_weights_file)
WEIGHTS_FOLDER = Output(is_empty_folder_or(_is_weights_folder))
EXPORT = Output(has_format(EXPORT_FORMAT), endings=SAFETENSORS)
BUILD_FILE = Output(
    lambda path: False, f"{IN_THE_WAY}no build of editspec made it.", "Move it elsewhere."
)
"""A file of a build folder whose manifest does not name it: any file there is foreign."""


def marked_file(mark: bytes, endings: tuple[str, ...]) -> Output:
    """The kind of texts that begin with a mark of ours, such as a table of checks."""
    return Output(has_mark(mark), endings=endings)


def kept_file(data: bytes) -> Output:
    """The kind of files that are made once, and may be there with this content."""
    return Output(has_content(data), f"{IN_THE_WAY}it is not what the record gives.")


def run_folder(mark: str, maker: str) -> Output:
    """The kind of folders for the runs of one `maker`, which leaves the file `mark`."""
    return Output(
        is_empty_folder_or(lambda path: path.is_dir() and (path / mark).is_file()),
        f"{IN_THE_WAY}no {maker} of editspec made it.",
        NEW_FOLDER,
    )


def require_folder_name(path: Path) -> None:
    """Raise a `UsageError` where a folder would have the ending of a file."""
    if name_ending(path) in FILES:
        raise UsageError(
            f"{path} is to be a folder, and its name ends in {name_ending(path)}.",
            "Give a name without an ending.",
        )


def adapter_folder(adapter: str, configuration: str) -> Output:
    """The kind of folders for an exported adapter."""
    return Output(
        holds_nothing_but((adapter, configuration), has_format(EXPORT_FORMAT)),
        f"{IN_THE_WAY}editspec did not export it.",
        NEW_FOLDER,
    )
