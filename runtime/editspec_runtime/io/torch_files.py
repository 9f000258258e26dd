"""A reader of torch's own files, which runs no code."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from editspec_runtime.errors import FileError
from editspec_runtime.io.archives import open_archive
from editspec_runtime.io.files import begins_with, unreadable
from editspec_runtime.io.numpy_data import NumberArray, NumberKind, NumpyData


def read_torch(path: Path) -> object:
    """Read a ``.pt`` file with ``weights_only=True``: plain containers, numbers and tensors.

    Numbers and arrays of numpy are plain numbers and `NumberArray`. Code is never run. Raises
    `FileError` where the file is missing, damaged, or holds anything else.
    """
    if begins_with(path, b"PK"):
        open_archive(path)
    # rosinality's training keeps its command line in the checkpoint: a plain container, too.
    known: list[Any] = [argparse.Namespace]
    known += [(stand_in, name) for name, stand_in in NumpyData().table().items()]
    # Types whose states may be set. A name without a dot is one that no pickle can give.
    known += [(NumberKind, "kind"), (NumberArray, "array")]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            warnings.simplefilter("ignore")  # of old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader meets damage with errors of many kinds
        foreign = re.search(r"(?:GLOBAL|global|Unsupported class) ([\w.]+)", str(error))
        if foreign is None:
            raise unreadable(path, "a readable torch checkpoint") from error
        raise FileError(
            f"{path} holds more than tensors and plain containers ({foreign[1]}), and such a file "
            "can run code when it is read. It was not executed.",
            "Save the generator's state dict alone (or as .safetensors) in the environment that "
            "made the file.",
        ) from error
