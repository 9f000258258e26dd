"""Latents that a spec gives as numbers or in files.

Imports no torch, and numpy when such a latent is read: most specs have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_compiler.document import find_path_problem
from editspec_compiler.modalities.image.latent_files import Opener, open_arrays
from editspec_compiler.modalities.image.schema import STYLES, LatentFile
from editspec_compiler.spec_folder import Folder
from editspec_runtime.errors import FileError
from editspec_runtime.modalities.image.architecture import ImageArchitecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 12
"""The most names of arrays that a message lists."""


def read_latent(
    latent: list[float] | LatentFile,
    folder: Folder,
    architecture: ImageArchitecture | None,
    open_torch: Opener | None = None,
) -> NDArray[np.float32]:
    """Read the numbers of a latent.

    Parameters
    ----------
    latent
        The numbers, or the file that holds them.
    folder
        What file names are relative to.
    architecture
        The model's sizes; None where they are not known yet: any length will do.
    open_torch
        As in `open_arrays`.

    Returns
    -------
    NDArray
        z [latent_size] float32, or w of every layer [styles, style_size].

    Raises
    ------
    FileError
        The numbers cannot be read, are too few or too many, or are not finite; or the model has
        no w.
    """
    import numpy as np

    of_styles = is_of_styles(latent)
    if of_styles and architecture is not None and not architecture.styles:
        raise FileError(
            f"the family {architecture.family} has no w: its images are made of z alone",
            "leave space out, and give a z",
        )
    if isinstance(latent, list):
        given = np.asarray(latent)
    else:
        given = _read_array(folder, latent, open_torch)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        numbers = given.astype(np.float32)
    if not np.isfinite(numbers).all():
        message = "a latent has finite float32 numbers, found some that are not"
        raise FileError(message, "leave NaN and infinity out, and all above 3.4e38")
    name = "" if isinstance(latent, list) else str(folder / latent.file)
    if of_styles:
        return _shape_styles(name, numbers, architecture)
    return _shape_vector(name, numbers, architecture)


def is_of_styles(latent: object) -> bool:
    """Return whether a latent of a spec is w, and not z."""
    return isinstance(latent, LatentFile) and latent.space == STYLES


def _read_array(folder: Folder, latent: LatentFile, open_torch: Opener | None) -> NDArray[Any]:
    """Read the array in a file, or the row of it that `index` says."""
    path = folder / latent.file
    if problem := find_path_problem(latent.file, folder):
        raise FileError(*problem)
    arrays = open_arrays(path, open_torch)
    name = _choose(path, list(arrays), latent.key)
    # A key of this name holds nothing else; where its array looks like z, it must not pass for one.
    if name.rpartition("/")[2] == STYLES and "space" not in latent.model_fields_set:
        message = f"{path} holds a latent by the name of w, and space says nothing of it"
        raise FileError(message, "write space: w (or space: z, if it is one all the same)")
    array = arrays[name]()
    if latent.index is None:
        return array
    rows = len(array) if array.ndim > 1 else 1
    if latent.index >= rows:
        have = "1 latent" if rows == 1 else f"{rows} latents"
        hint = "Leave index out." if rows == 1 else f"Give an index of 0 to {rows - 1}."
        raise FileError(f"{path} holds {have}, and there is no number {latent.index}.", hint)
    row: NDArray[Any] = array[latent.index] if array.ndim > 1 else array
    return row


def _choose(path: Path, arrays: list[str], key: str | None) -> str:
    """Choose the name of the array of a key; of a file with one array, that one."""
    if not arrays:
        raise FileError(f"{path} holds no numbers.", "Write the latent with numpy.save.")
    listed = ", ".join(sorted(arrays)[:SHOWN])
    more = ", …" if len(arrays) > SHOWN else ""
    if key is None:
        if len(arrays) == 1:
            return arrays[0]
        raise FileError(f"{path} holds {len(arrays)} tensors: {listed}{more}.", "Give the key.")
    if arrays == [""]:
        raise FileError(f"{path} holds one array, which has no name.", "Leave key out.")
    if key in arrays:
        return key
    # Of tensors in containers, such as those of a projector by the names of pictures.
    within = [name for name in arrays if name.endswith(f"/{key}")]
    if len(within) == 1:
        return within[0]
    raise FileError(f"{path} holds no {key}.", f"It holds {listed}{more}.")


def _shape_vector(
    name: str, numbers: NDArray[np.float32], architecture: ImageArchitecture | None
) -> NDArray[np.float32]:
    """Take z out of an array, whose axes of length 1 do not count."""
    size = architecture.latent_size if architecture is not None else None
    if max(numbers.shape, default=1) != numbers.size:
        message = f"{name} holds {_describe(numbers)} numbers, expected those of one latent"
        hint = "give the index of the one that is meant"
        if _could_be_styles(numbers, architecture):
            hint = "if these are w, as a projector or an encoder writes them: write space: w"
        raise FileError(message, hint)
    if size is not None and numbers.size != size:
        message = f"a latent of this model has {size} numbers, found {numbers.size}"
        raise FileError(message, "give a latent that was made for this model")
    return numbers.reshape(-1)


def _could_be_styles(numbers: NDArray[np.float32], architecture: ImageArchitecture | None) -> bool:
    """Return whether an array has the shape of w, [styles, style_size]."""
    if architecture is None:
        return numbers.ndim == 3
    shape = tuple(length for length in numbers.shape if length != 1)
    return shape == (architecture.styles, architecture.style_size)


def _shape_styles(
    name: str, numbers: NDArray[np.float32], architecture: ImageArchitecture | None
) -> NDArray[np.float32]:
    """Take w of every layer out of an array.

    [style_size] is for all layers; [styles, style_size] has one for each.
    """
    import numpy as np

    if architecture is None:
        return numbers
    count, size = architecture.styles, architecture.style_size
    shape = numbers.shape
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    if shape == (size,):
        return np.tile(numbers.reshape(1, size), (count, 1))
    if shape == (count, size):
        return numbers.reshape(count, size)
    message = (
        f"{name} holds {_describe(numbers)} numbers; w of this model has {size}, or {count} x "
        f"{size}: one w for each layer"
    )
    several = shape[1:] in ((size,), (1, size), (count, size))
    if several and shape[-1] == size:
        last = shape[0] - 1
        hint = f"give the index of the one that is meant, 0 to {last}"
        if shape == (shape[0], size):
            hint += "; w of every layer is that of a model of this size alone"
        raise FileError(message, hint)
    raise FileError(message, "give a latent that was made for this model")


def _describe(numbers: NDArray[np.float32]) -> str:
    return " x ".join(map(str, numbers.shape)) or "1"
