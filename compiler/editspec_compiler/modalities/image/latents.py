"""Latents that a spec gives as numbers or in files. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from editspec_compiler.document import reading_problem
from editspec_compiler.modalities.image.schema import LatentFile
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import read_header


def read_latent(
    latent: list[float] | LatentFile, folder: Path, size: int | None
) -> NDArray[np.float32]:
    """The numbers of a latent, [size] float32; any length where `size` is not known yet.

    Raises `FileError` where they cannot be read, are too few or too many, or are not finite.
    """
    given = np.asarray(latent) if isinstance(latent, list) else _read_row(folder, latent)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        vector = given.astype(np.float32).reshape(-1)
    if size is not None and vector.size != size:
        raise FileError(f"a latent of this model has {size} numbers, found {vector.size}")
    if not np.isfinite(vector).all():
        raise FileError("a latent has finite float32 numbers, found some that are not")
    return vector


def _read_row(folder: Path, latent: LatentFile) -> NDArray[Any]:
    """The one row of floating point numbers that a file holds, whatever axes of length 1 are around
    it.
    """
    path = folder / latent.file
    if why := reading_problem(path):
        raise FileError(why)
    array = (
        _read_npy(path, latent.key)
        if path.suffix == ".npy"
        else _read_safetensors(path, latent.key)
    )
    if max(array.shape, default=1) != array.size:
        shape = " x ".join(map(str, array.shape))
        raise FileError(f"{path} holds {shape} numbers, expected those of one latent")
    return array


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    if key is not None:
        raise FileError(f"{path} holds one array, which has no name.", "Leave key out.")
    try:
        # Mapped, not read: a header that claims more than the file holds costs nothing.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy meets damage with errors of many kinds
        raise FileError(f"{path} holds no latent that can be read: {error}.") from error
    if array.dtype.kind != "f":
        raise FileError(f"{path} holds {array.dtype} values, expected floating point numbers.")
    return array


def _read_safetensors(path: Path, key: str | None) -> NDArray[Any]:
    tensors = read_header(path).tensors
    if key is None and len(tensors) != 1:
        raise FileError(
            f"{path} holds {len(tensors)} tensors: {', '.join(sorted(tensors))}.", "Give the key."
        )
    name = next(iter(tensors)) if key is None else key
    if name not in tensors:
        raise FileError(f"{path} holds no {name}.", f"It holds {', '.join(sorted(tensors))}.")
    if tensors[name].dtype not in ("F16", "F32", "F64"):
        raise FileError(f"{path} holds {tensors[name].dtype} values, expected F16, F32 or F64.")
    with safe_open(path, framework="numpy") as file:
        array: NDArray[Any] = file.get_tensor(name)
    return array
