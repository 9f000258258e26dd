"""Files with latents -> named arrays. Imports no torch, and numpy when a file is read."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.archives import open_archive
from editspec_runtime.io.file_kinds import HEAD, NPZ, NUMPY, find_kind
from editspec_runtime.io.files import detect_container, read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

Loader = Callable[[], "NDArray[Any]"]
"""Reads one array of a file."""

Opener = Callable[[Path], dict[str, Loader]]
"""Finds the arrays of a file."""

FORMATS = "a .safetensors, .npy, .npz or .pt file"

SAVE = "Write it with numpy.save, as an array of numbers."

FLOATS = ("BF16", "F16", "F32", "F64")
"""The dtypes of safetensors that are read."""


def is_of_torch(path: Path) -> bool:
    """Return whether a file is torch's or a pickle, which are read with torch alone."""
    return detect_container(path) in ("torch", "pickle") and _kind_of(path) != NPZ


def open_arrays(path: Path, open_torch: Opener | None = None) -> dict[str, Loader]:
    """Find the arrays of a file by their names, each of which is read when it is asked for.

    The only array of a file without names has the empty name.

    Parameters
    ----------
    path
        The file.
    open_torch
        Opens files for which `is_of_torch` holds; none is given here without it.

    Raises
    ------
    FileError
        The file holds no arrays, is damaged, or is of another kind, which is named.
    """
    kind = _kind_of(path)
    if kind == NUMPY or (path.suffix == ".npy" and kind is None):
        return {"": partial(_load_npy, path)}
    if kind == NPZ:
        return _open_npz(path)
    if is_of_torch(path):
        assert open_torch is not None
        return open_torch(path)
    if kind is not None:
        raise FileError(f"{path} is {kind.name}, and a latent lies in {FORMATS}.", _remedy(path))
    tensors = read_header(path).tensors
    return {name: partial(_load_tensor, path, name, tensors[name].dtype) for name in tensors}


def _kind_of(path: Path) -> Any:
    """Tell the kind of a file; None for safetensors, and for what is unknown."""
    if detect_container(path) == "safetensors":
        return None
    with path.open("rb") as file:
        return find_kind(file.read(HEAD))


def _remedy(path: Path) -> str:
    """Say what to do about a file of another kind."""
    kind = _kind_of(path)
    if "image" in kind.name or "video" in kind.name:
        return "Project the picture first: the projector of its generator writes projected_w.npz."
    if kind.name.startswith(("a pointer", "a web page")):
        return f"{kind.as_picture[0].upper()}{kind.as_picture[1:]}."
    return SAVE


def _load_npy(path: Path) -> NDArray[Any]:
    import numpy as np

    try:
        # Mapped, not read: a header that claims more than the file holds costs nothing.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy meets damage with errors of many kinds
        raise _unreadable(path, error) from error
    return require_floats(path, array)


def _open_npz(path: Path) -> dict[str, Loader]:
    archive = open_archive(path)
    loaders: dict[str, Loader] = {}
    for name in archive:
        if name.endswith(".npy"):
            loaders[name.removesuffix(".npy")] = partial(_load_entry, path, archive, name)
    return loaders


def _load_entry(path: Path, archive: Mapping[str, bytes], name: str) -> NDArray[Any]:
    import numpy as np

    data = io.BytesIO(archive[name])
    try:
        array: NDArray[Any] = np.lib.format.read_array(data, allow_pickle=False)
    except Exception as error:  # numpy meets damage with errors of many kinds
        raise _unreadable(path, error) from error
    return require_floats(path, array)


def _unreadable(path: Path, error: Exception) -> FileError:
    if "Python objects" in str(error) or "Object arrays" in str(error):
        # Reading such an array would run code.
        return FileError(f"{path} holds Python objects, which are not read.", SAVE)
    return FileError(f"{path} holds no latent that can be read.", SAVE)


def require_floats(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of floating point numbers; raise `FileError` for any other."""
    if array.dtype.kind != "f":
        message = f"{path} holds {array.dtype} values, expected floating point numbers."
        raise FileError(message, "Convert the array to float32.")
    return array


def _load_tensor(path: Path, name: str, dtype: str) -> NDArray[Any]:
    """Read a tensor of a safetensors file; bfloat16, which numpy has not, becomes float32."""
    if dtype not in FLOATS:
        message = f"{path} holds {dtype} values, expected BF16, F16, F32 or F64."
        raise FileError(message, "Convert the tensor to float32.")
    import numpy as np

    header = read_header(path)
    begin, end = header.offsets[name]
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(end - begin)
    shape = header.tensors[name].shape
    if dtype == "BF16":
        halves: NDArray[Any] = np.frombuffer(data, "<u2").astype("<u4")
        # A bfloat16 is the upper half of the float32 of the same number.
        return (halves << 16).view("<f4").reshape(shape)
    array: NDArray[Any] = np.frombuffer(data, f"<f{int(dtype[1:]) // 8}").reshape(shape)
    return array
