"""Find the files of the weights that a spec names. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from editspec_compiler.document import find_path_problem
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import FileError, WeightsError
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.downloads import is_remote
from editspec_runtime.io.files import require_file
from editspec_runtime.io.parts import INDEX, SUFFIX, is_in_parts
from editspec_runtime.io.places import weights_path
from editspec_runtime.io.shards import is_plain_folder, is_sharded


def find_weights(model: ModelFields, folder: Path, cache: Cache) -> Path:
    """Find the file that ``weights:`` names, or the folder of several.

    Raises `FileError` where it cannot be read; what is remote is not fetched.
    """
    path = weights_path(model.weights, folder, cache=cache, pin=model.digest, fetching=False)
    if is_sharded(path) and any(path.glob(f"*{INDEX}")):
        return path
    if is_plain_folder(path):
        return path
    family = FAMILIES.get(model.family)
    if os.path.isdir(path):  # noqa: PTH112 - of pathlib, a name that is too long is an error
        if is_in_parts(path) or (family is not None and family.in_parts):
            return path
        _require_model_in(path)
    if path == folder / model.weights and (problem := find_path_problem(model.weights, folder)):
        raise FileError(*problem)
    if not is_remote(model.weights):  # one of the package, or below a home
        require_file(path)
    return path


def _require_model_in(folder: Path) -> None:
    """Raise a `FileError` where a folder holds a model in files that are not read from there."""
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(name.endswith(SUFFIX) for name in found):
        raise FileError(
            f"{folder} holds several files of weights and no index of them",
            f"get *{INDEX} from where they are from, or give one of the files",
        )
    for name in found:
        if name.endswith(".gguf"):
            hint = f"make a folder of it by editspec convert {folder / name} FOLDER, and give that"
            raise FileError(f"{folder} holds a GGUF file and no *{SUFFIX}", hint)
        if name.endswith((".bin", ".pt", ".pth")):
            made = folder / f"model{SUFFIX}"
            hint = f"make one by editspec convert {folder / name} {made}"
            raise FileError(f"{folder} holds {name} and no *{SUFFIX}", hint)
    for name in ("config.json", "tokenizer.json"):
        if name in found:
            hint = f"get the *{SUFFIX} from where the rest of the folder is from"
            raise FileError(f"{folder} holds {name} and no weights (*{SUFFIX})", hint)
    if not found:
        raise FileError(f"{folder} is empty", "get the weights again, or give another folder")


def require_bytes(weights: Path, pin: str) -> None:
    """Raise a `WeightsError` unless a file has the bytes that a spec pins."""
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.removeprefix("sha256:"):
        raise WeightsError(
            f"{weights} is not the file that the spec pins: expected {pin}, found sha256:{found}.",
            "Get the pinned file, or change model.digest.",
        )
