"""Weights as they are stored in safetensors files; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec_runtime.errors import FileError, WrongPath
from editspec_runtime.io.files import read_header, require_file
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.io.json_text import parse_json
from editspec_runtime.io.parts import INDEX, SUFFIX, is_in_parts, list_parts

BESIDE = (".json", ".txt", ".model", ".jinja")
"""The endings of files that belong to a model besides its weights."""


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file of stored weights.

    Attributes
    ----------
    path
        The file.
    metadata
        Its metadata as they are written.
    tensors
        Its tensors by name, in the order of their bytes.
    offsets
        Begin and end of the bytes of each tensor, from the beginning of its file.
    paths
        The files of tensors that lie elsewhere, where several files are taken for one.
    part
        The folder of the model that the file holds, where a folder holds several models. It stands
        before the names of the tensors here, with a slash, and not in the file.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, tuple[int, int]]
    paths: Mapping[str, Path] = field(default_factory=dict)
    part: str = ""

    def name_in_file(self, name: str) -> str:
        """The name of a tensor in the file itself."""
        return name.removeprefix(f"{self.part}/") if self.part else name

    def path_of(self, name: str) -> Path:
        """The file that the bytes of a tensor lie in."""
        return self.paths.get(name, self.path)


@dataclass(frozen=True)
class Stored:
    """Weights as they are stored: one file, or several with an index.

    Attributes
    ----------
    files
        The files.
    index
        Name and metadata of the index of several files; None for one file.
    metadata
        What editspec wrote of these weights; empty where it wrote nothing.
    folder
        The folder that was given for its files; None where a file or an index was.
    in_parts
        Whether the folder holds several models, each in a folder of its own. The index is that of
        the last of them, which is the one that patches change.
    """

    files: tuple[StoredFile, ...]
    index: tuple[str, Mapping[str, Any]] | None
    metadata: Mapping[str, Any]
    folder: Path | None = None
    in_parts: bool = False

    def beside(self) -> list[Path]:
        """The small files beside those of a folder, such as a configuration and a tokenizer."""
        if self.folder is None:
            return []
        found = [path for path in sorted(self.folder.iterdir()) if path.suffix in BESIDE]
        return [path for path in found if path.is_file() and not path.name.endswith(INDEX)]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The tensors of all files by name."""
        named: dict[str, TensorInfo] = {}
        for file in self.files:
            named |= file.tensors
        return named


def as_one_file(weights: Stored, names: Mapping[str, str]) -> Stored:
    """Take some tensors of stored weights for those of one file, by new names.

    `names` are the new ones by those in the files.
    """
    tensors: dict[str, TensorInfo] = {}
    offsets: dict[str, tuple[int, int]] = {}
    paths: dict[str, Path] = {}
    for file in weights.files:
        for name, info in file.tensors.items():
            if name in names:
                new = names[name]
                tensors[new], offsets[new] = info, file.offsets[name]
                paths[new] = file.path
    first = weights.files[0]
    one = StoredFile(first.path, first.metadata, tensors, offsets, paths)
    return Stored((one,), None, weights.metadata)


def is_sharded(path: Path) -> bool:
    """Whether weights at `path` are an index, or a folder that holds one."""
    try:
        return path.name.endswith(INDEX) or path.is_dir()
    except OSError:  # a name that is too long; reading it raises the error for people
        return False


def is_plain_folder(path: Path) -> bool:
    """Whether a path is a folder that holds one file of weights, and no index."""
    # Path raises for names that no file can have.
    if not os.path.isdir(path) or any(path.glob(f"*{INDEX}")):  # noqa: PTH112
        return False
    return len(list(path.glob(f"*{SUFFIX}"))) == 1


def file_of(path: Path) -> Path:
    """The only file of weights in a plain folder; any other path as it is."""
    if not is_plain_folder(path):
        return path
    return next(path.glob(f"*{SUFFIX}"))


def read_stored(path: Path) -> Stored:
    """Read the headers of a safetensors file, or of all files of an index.

    Raises `FileError` where a file is missing or damaged, or the index and the files say different
    things.
    """
    if is_in_parts(path):
        return _read_parts(path)
    if not is_sharded(path) or is_plain_folder(path):
        file = _stored_file(file_of(path))
        metadata = _editspec(file.metadata.get("editspec"), path)
        return Stored((file,), None, metadata, path if path.is_dir() else None)
    index = _index_path(path)
    require_file(index)
    named, metadata = _read_index(index)
    # A name with a folder in it would have files read that nobody gave.
    outside = sorted(file for file in set(named.values()) if Path(file).name != file)
    if outside:
        raise FileError(
            f"{index} names files outside its folder: {', '.join(outside)}.",
            "Put all files into the folder of the index.",
        )
    files = tuple(_stored_file(index.parent / file) for file in sorted(set(named.values())))
    for file in files:
        expected = {name for name, where in named.items() if where == file.path.name}
        if set(file.tensors) != expected:
            raise FileError(
                f"{index} and {file.path} do not name the same tensors.", "Get both of one version."
            )
    said = _editspec(metadata.get("editspec"), index)
    return Stored(files, (index.name, metadata), said, path if path.is_dir() else None)


def _read_parts(folder: Path) -> Stored:
    """Read the headers of all models of a folder that patches depend on."""
    files: list[StoredFile] = []
    last: Stored | None = None
    for name, place in list_parts(folder).items():
        last = read_stored(place)
        for file in last.files:
            tensors = {f"{name}/{own}": info for own, info in file.tensors.items()}
            offsets = {f"{name}/{own}": where for own, where in file.offsets.items()}
            files.append(StoredFile(file.path, file.metadata, tensors, offsets, part=name))
    assert last is not None
    return Stored(tuple(files), last.index, last.metadata, folder, in_parts=True)


def _read_index(index: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The file of each tensor by its name, and the metadata of the index."""
    try:
        content = parse_json(index.read_bytes())
        named = {str(name): str(file) for name, file in content["weight_map"].items()}
        return named, dict(content.get("metadata", {}))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise FileError(
            f"{index} is not an index of safetensors files.",
            "An index is JSON with a weight_map from tensors to files. Get it again.",
        ) from error


def _index_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{INDEX}"))
    if len(found) != 1:
        raise WrongPath(
            f"{path} is a folder with {len(found)} indices of safetensors files, expected one.",
            "Give the index itself.",
        )
    return found[0]


def _stored_file(path: Path) -> StoredFile:
    try:
        header = read_header(path)
    except WrongPath as error:  # the name stands in the index, and nobody gave it
        raise FileError(error.message, "The index names it. Get the weights whole.") from error
    tensors = {name: header.tensors[name] for name in header.offsets}
    return StoredFile(path, header.metadata, tensors, header.offsets)


def _editspec(text: object, path: Path) -> dict[str, Any]:
    """Our own metadata in the `text` of a file's metadata; empty without any."""
    if not isinstance(text, str):
        return {}
    try:
        found = parse_json(text)
    except ValueError as error:
        raise FileError(
            f"{path} is damaged: its metadata is not JSON.", "Copy or build it again."
        ) from error
    return found if isinstance(found, dict) else {}
