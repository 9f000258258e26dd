"""Tensors that are read each time they are asked for; imports no torch.

A model that does not fit into memory is computed with block by block: what a block does not need
any longer is not in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from editspec_runtime.io.headers import SAFETENSORS_DTYPES, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

FLOATING = ("F64", "F32", "F16", "BF16")

Reader = Callable[[], "Tensor"]


class LazyTensors(Mapping[str, "Tensor"]):
    """Tensors by name, each read when it is asked for, and not kept.

    Parameters
    ----------
    readers
        The function that reads a tensor, by its name.
    infos
        Their dtypes and shapes.
    """

    def __init__(self, readers: Mapping[str, Reader], infos: Mapping[str, TensorInfo]) -> None:
        self.readers = dict(readers)
        self.infos = dict(infos)

    def __getitem__(self, name: str) -> Tensor:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)

    def with_changes(self, changes: Mapping[str, Tensor]) -> LazyTensors:
        """These tensors with some replaced; those of other lazy ones are not read."""
        if isinstance(changes, LazyTensors):
            readers, infos = changes.readers, changes.infos
        else:
            readers = {name: partial(_return, tensor) for name, tensor in changes.items()}
            infos = {name: _describe(tensor) for name, tensor in changes.items()}
        return LazyTensors(self.readers | readers, self.infos | infos)

    def part(self, names: Iterable[str]) -> LazyTensors:
        """Some of these tensors."""
        return self.renamed({name: name for name in names})

    def renamed(self, names: Mapping[str, str]) -> LazyTensors:
        """Some of these tensors by new names, given by the old ones."""
        readers = {new: self.readers[name] for name, new in names.items()}
        return LazyTensors(readers, {new: self.infos[name] for name, new in names.items()})

    def map(self, change: Callable[[Tensor], Tensor], dtype: str) -> LazyTensors:
        """These tensors, changed when they are read; those of floating point become `dtype`."""
        readers = {}
        infos = {}
        for name, read in self.readers.items():
            readers[name] = partial(_change, read, change)
            info = self.infos[name]
            if info.dtype in FLOATING:
                info = TensorInfo(SAFETENSORS_DTYPES[dtype], info.shape)
            infos[name] = info
        return LazyTensors(readers, infos)


def _return(tensor: Tensor) -> Tensor:
    return tensor


def _change(read: Reader, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(read())


def _describe(tensor: Tensor) -> TensorInfo:
    kind = str(tensor.dtype).removeprefix("torch.")
    return TensorInfo(SAFETENSORS_DTYPES.get(kind, kind), tuple(tensor.shape))
