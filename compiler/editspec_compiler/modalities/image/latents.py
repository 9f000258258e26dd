"""Latents that a spec gives as numbers or in files.

Imports no torch, and numpy when such a latent is read: most specs have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import find_path_problem
from editspec_compiler.modalities.image.schema import LatentFile
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_latent(
    latent: list[float] | LatentFile, folder: Path, size: int | None
) -> NDArray[np.float32]:
    """Read the numbers of a latent, [size] float32.

    Parameters
    ----------
    latent
        The numbers, or the file that holds them.
    folder
        What file names are relative to.
    size
        The length that the model takes; None where it is not known yet: any length will do.

    Raises
    ------
    FileError
        The numbers cannot be read, are too few or too many, or are not finite.
    """
    import numpy as np

    given = np.asarray(latent) if isinstance(latent, list) else _read_row(folder, latent)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        vector = given.astype(np.float32).reshape(-1)
    if size is not None and vector.size != size:
        message = f"a latent of this model has {size} numbers, found {vector.size}"
        raise FileError(message, "give a latent that was made for this model")
    if not np.isfinite(vector).all():
        message = "a latent has finite float32 numbers, found some that are not"
        raise FileError(message, "leave NaN and infinity out, and all above 3.4e38")
    return vector


def _read_row(folder: Path, latent: LatentFile) -> NDArray[Any]:
    """Read the row of numbers in a file; axes of length 1 do not count."""
    path = folder / latent.file
    if problem := find_path_problem(latent.file, folder):
        raise FileError(*problem)
    read = _read_npy if path.suffix == ".npy" else _read_safetensors
    array = read(path, latent.key)
    if max(array.shape, default=1) != array.size:
        shape = " x ".join(map(str, array.shape))
        message = f"{path} holds {shape} numbers, expected those of one latent"
        raise FileError(message, "write each latent to a file, or under a key, of its own")
    return array


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    if key is not None:
        raise FileError(f"{path} holds one array, which has no name.", "Leave key out.")
    import numpy as np

    try:
        # Mapped, not read: a header that claims more than the file holds costs nothing.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy meets damage with errors of many kinds
        hint = "Write it with numpy.save, as an array of numbers."
        if "Python objects" in str(error):  # reading such an array would run code
            raise FileError(f"{path} holds Python objects, which are not read.", hint) from error
        raise FileError(f"{path} holds no latent that can be read.", hint) from error
    if array.dtype.kind != "f":
        message = f"{path} holds {array.dtype} values, expected floating point numbers."
        raise FileError(message, "Convert the array to float32.")
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
        message = f"{path} holds {tensors[name].dtype} values, expected F16, F32 or F64."
        raise FileError(message, "Convert the tensor to float32.")
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        array: NDArray[Any] = file.get_tensor(name)
    return array
