"""Folders of several models, each in a folder of its own, as diffusers keeps them; no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.json_text import JsonError, parse_json

MODEL_INDEX = "model_index.json"
"""The file that makes a folder one of several models."""

EDITED = "unet"
"""The folder of the model that patches change."""

ENCODERS = ("text_encoder", "text_encoder_2")
"""The folders of the models that its keys come from."""

SUFFIX = ".safetensors"
INDEX = f"{SUFFIX}.index.json"

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""The end of the name of one file of several."""

OTHER_FORMS = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx")
"""The endings of weights that are not read."""


def is_in_parts(path: Path) -> bool:
    """Whether a path is a folder of several models."""
    try:
        return (path / MODEL_INDEX).is_file()
    except OSError:  # a name that is too long
        return False


def read_model_index(folder: Path) -> dict[str, Any]:
    """Read which models a folder holds.

    Raises `FileError` where that is not told in JSON.
    """
    path = folder / MODEL_INDEX
    try:
        content = parse_json(path.read_bytes())
    except (OSError, JsonError) as error:
        raise FileError(f"{path} cannot be read as JSON.", "Get the file again.") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a mapping.", "Get the file again.")
    return content


def named_parts(index: dict[str, Any]) -> list[str]:
    """The names of the models that an index of models has."""
    return [name for name, kind in index.items() if isinstance(kind, list) and any(kind)]


def list_parts(folder: Path) -> dict[str, Path]:
    """List the weights that patches depend on: a file or an index by the name of the model.

    The edited model comes last. Raises `FileError` where one is missing.
    """
    named = named_parts(read_model_index(folder))
    wanted = [name for name in ENCODERS if name in named]
    return {name: find_weights(folder / name) for name in (*wanted, EDITED)}


def find_weights(folder: Path) -> Path:
    """Find the file of the weights in the folder of one model, or the index of several.

    Of several precisions that lie beside each other, the one without a word in its name is taken.
    Raises `FileError` where there is none.
    """
    if not folder.is_dir():
        raise FileError(
            f"{folder} is missing, and {MODEL_INDEX} beside it names it.",
            "Get the whole folder of the model again.",
        )
    files = sorted(folder.glob(f"*{SUFFIX}"))
    whole = [path for path in files if not SHARD.search(path.name.removesuffix(SUFFIX))]
    plain = [path for path in whole if "." not in path.name.removesuffix(SUFFIX)]
    indices = sorted(folder.glob(f"*{INDEX}"))
    for found in (plain, indices, whole):
        if len(found) == 1:
            return found[0]
    if files:
        raise FileError(
            f"{folder} holds several files of weights: "
            f"{', '.join(path.name for path in files[:4])}.",
            "Leave one of them there, or several with their index.",
        )
    others = [path.name for path in sorted(folder.iterdir()) if path.suffix in OTHER_FORMS]
    if others:
        raise FileError(
            f"{folder} holds {others[0]}, and no {SUFFIX}.",
            "Convert it: in Python, load the folder with DiffusionPipeline.from_pretrained(FOLDER) "
            "and save it with save_pretrained(NEW_FOLDER, safe_serialization=True).",
        )
    raise FileError(f"{folder} holds no weights.", "Get the whole folder of the model again.")


def other_weights(folder: Path, kept: list[Path]) -> list[Path]:
    """The other files of weights in the folder of one model, of another precision or form."""
    found = []
    for path in sorted(folder.iterdir()):
        named = path.suffix in (SUFFIX, *OTHER_FORMS) or f"{SUFFIX}.index." in path.name
        if path.is_file() and named and path not in kept:
            found.append(path)
    return found
