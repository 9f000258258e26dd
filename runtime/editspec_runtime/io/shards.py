"""Weights as they are stored in safetensors: one file, or several with an index. Imports no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.files import TensorInfo, read_header, read_spans, require_file

INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file: where it lies, its own metadata, and its tensors in the order of their
    bytes.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    spans: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Stored:
    """Weights as they are stored: one file, or several with an index.

    Attributes
    ----------
    files
        The files.
    index
        Of several files their index: its name and what its metadata say; None for one file.
    metadata
        What editspec wrote of these weights, if it did.
    """

    files: tuple[StoredFile, ...]
    index: tuple[str, Mapping[str, Any]] | None
    metadata: Mapping[str, Any]


def is_sharded(path: Path) -> bool:
    """Whether weights at `path` are an index, or a folder that holds one."""
    try:
        return path.name.endswith(INDEX) or path.is_dir()
    except OSError:  # a name that is too long: whoever reads it says so
        return False


def stored(path: Path) -> Stored:
    """Look at a safetensors file, an index of several, or the folder of an index.

    Raises `FileError` where one is missing or damaged, or the index and the files say different
    things.
    """
    if not is_sharded(path):
        file = _stored_file(path)
        return Stored((file,), None, _editspec(file.metadata.get("editspec"), path))
    index = _index_path(path)
    require_file(index)
    try:
        content = json.loads(index.read_text())
        named = {str(name): str(file) for name, file in content["weight_map"].items()}
        metadata = dict(content.get("metadata", {}))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise FileError(f"{index} is no index of safetensors files: {error}.") from error
    outside = sorted(file for file in set(named.values()) if Path(file).name != file)
    if outside:
        raise FileError(f"{index} names files outside its folder: {', '.join(outside)}.")
    files = tuple(_stored_file(index.parent / file) for file in sorted(set(named.values())))
    for file in files:
        if set(file.tensors) != {name for name, where in named.items() if where == file.path.name}:
            raise FileError(
                f"{index} and {file.path} do not name the same tensors.", "Get both of one version."
            )
    return Stored(files, (index.name, metadata), _editspec(metadata.get("editspec"), index))


def _index_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{INDEX}"))
    if len(found) != 1:
        raise FileError(
            f"{path} is a folder with {len(found)} indices of safetensors files, expected one."
        )
    return found[0]


def _stored_file(path: Path) -> StoredFile:
    header = read_header(path)
    spans = read_spans(path)
    return StoredFile(path, header.metadata, {name: header.tensors[name] for name in spans}, spans)


def _editspec(text: object, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError as error:
        raise FileError(
            f"{path}: its metadata is not JSON ({error}); the file is damaged."
        ) from error
    return found if isinstance(found, dict) else {}
