"""Files of torch with latents -> named arrays.

They are read by readers that build numbers and plain containers, and run nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from editspec_compiler.modalities.image.latent_files import Loader, require_floats
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import detect_container
from editspec_runtime.io.numpy_data import NumberArray
from editspec_runtime.io.pickles import read_pickle
from editspec_runtime.io.torch_files import read_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = (
    "Save the latent alone: numpy.save(NAME, latent.cpu().numpy()), or torch.save of the tensor."
)

DEPTH = 4
"""How deep containers of a file may lie in one another."""

TENSORS = 10_000
"""The most entries of a container that are looked at."""


def open_tensors(path: Path) -> dict[str, Loader]:
    """Find the tensors and arrays in a file of torch, or in a pickle, by their names.

    Containers are joined by ``/``; what stands alone has the empty name. Raises `FileError` where
    the file is damaged, or holds what could run code.
    """
    read = read_torch if detect_container(path) == "torch" else read_pickle
    try:
        content = read(path)
    except FileError as error:
        if "more than" not in error.message:
            raise
        raise FileError(error.message, PLAIN) from error
    loaders: dict[str, Loader] = {}
    for name, numbers in _numbers_of(content, "", 0):
        loaders[name] = partial(_load, path, numbers)
    return loaders


def _numbers_of(content: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor | NumberArray]]:
    """Yield the tensors and arrays of plain containers with their names."""
    if isinstance(content, (Tensor, NumberArray)):
        yield name, content
        return
    if isinstance(content, Mapping):
        entries = list(content.items())
    elif isinstance(content, (list, tuple)):
        entries = list(enumerate(content))
    else:
        return
    if depth == DEPTH:
        return
    for key, value in entries[:TENSORS]:
        below = f"{name}/{key}" if name else str(key)
        yield from _numbers_of(value, below, depth + 1)


def _load(path: Path, numbers: Tensor | NumberArray) -> NDArray[Any]:
    if isinstance(numbers, NumberArray):
        return require_floats(path, numbers.values)
    if not numbers.is_floating_point():
        kind = str(numbers.dtype).removeprefix("torch.")
        message = f"{path} holds {kind} values, expected floating point numbers."
        raise FileError(message, "Convert the tensor to float32.")
    # In double precision every number of every type is what it was.
    array: NDArray[Any] = numbers.detach().cpu().double().numpy()
    return array
