"""A reader of pickles that bring their own code, which runs none of it.

NVIDIA's training saves a generator as a pickle in which every module is a record of its class's
name, its source code and its attributes. Only the attributes are rebuilt: plain containers and
tensors. The source is dropped unread, and any other global is refused by name.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.files import require_file, unreadable


class ForeignGlobal(Exception):
    """A global in a pickle that is neither a plain container nor a tensor.

    `name` is ``module.name``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Module:
    """A pickled module as data.

    Attributes
    ----------
    name
        The name of its class.
    attributes
        Its instance dictionary, torch's ``_parameters``, ``_buffers`` and ``_modules`` among it.
    """

    name: str
    attributes: dict[str, Any]

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield the module and all below it, each with its prefix in a state dict.

        A prefix is empty, or ends in a dot.
        """
        yield prefix, self
        for name, child in self._members("_modules").items():
            if isinstance(child, Module):
                yield from child.walk(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by the names that torch gives them."""
        named = {}
        for prefix, module in self.walk():
            hidden = module.attributes.get("_non_persistent_buffers_set") or ()
            members = module._members("_parameters")
            for name, tensor in module._members("_buffers").items():
                if name not in hidden:
                    members[name] = tensor
            for name, tensor in members.items():
                if isinstance(tensor, Tensor):
                    named[f"{prefix}{name}"] = tensor.detach()
        return named

    def _members(self, kind: str) -> dict[str, Any]:
        members = self.attributes.get(kind)
        return dict(members) if isinstance(members, dict) else {}


@dataclass
class NumberKind:
    """The type of one of numpy's numbers as data.

    Attributes
    ----------
    code
        Kind and bytes, such as ``f8``.
    order
        The order of the bytes: ``<``, ``>``, ``=`` or ``|``.
    """

    code: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def read(self, data: bytes) -> bool | int | float:
        """Read the number whose bytes are `data`."""
        # numpy gets no other text: a type of objects would take the bytes for addresses.
        plain = re.fullmatch("b1|[iu][1248]|f[248]", self.code)
        if plain is None or self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(
                f"it holds a number of the type {self.order}{self.code}"[:80]
            )
        (number,) = np.frombuffer(data, self.order + self.code).tolist()
        return number  # type: ignore[no-any-return]


def load(file: BinaryIO) -> object:
    """Read a pickle of plain containers, numbers, tensors and `Module`.

    Raises `ForeignGlobal` for anything else, and whatever the standard unpickler raises for damage.
    """
    return _Unpickler(file).load()


class _Unpickler(pickle.Unpickler):
    """An unpickler that looks globals up in a table, and imports none.

    Nothing is built but what its own methods build.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        # A pickle may set attributes of what it names, so it gets a class of its own and bound
        # methods.
        dictionary = type("Dictionary", (dict,), {})
        self._known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "__builtin__.set": set,
            "dnnlib.util.EasyDict": dictionary,
            "torch_utils.persistence._reconstruct_persistent_obj": self._module,
            "numpy.dtype": self._number_kind,
            "numpy.core.multiarray.scalar": self._number,
            "numpy._core.multiarray.scalar": self._number,
            "torch.storage._load_from_bytes": self._storage,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[f"{module}.{name}"]
        except KeyError:
            raise ForeignGlobal(f"{module}.{name}") from None

    def persistent_load(self, identifier: Any) -> Any:
        raise pickle.UnpicklingError(
            f"it refers to an object outside of itself ({str(identifier)[:80]})"
        )

    def _module(self, meta: dict[str, Any]) -> Module:
        return Module(str(meta["class_name"]), dict(meta["state"]))

    def _number_kind(self, code: str, *_: Any) -> NumberKind:
        return NumberKind(str(code))

    def _number(self, kind: NumberKind, data: bytes) -> bool | int | float:
        return kind.read(data)

    def _storage(self, data: bytes) -> Any:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        # as_strided refuses what lies outside of the storage; setting the sizes at once would
        # enlarge it.
        flat = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
        return flat.as_strided(tuple(size), tuple(stride), offset)

    def _parameter(self, data: Tensor, *_: Any) -> Tensor:
        return data


def read_pickle(path: Path) -> object:
    """Read a ``.pkl`` file: plain containers, tensors, and modules as data.

    Modules are `Module`, and code is never run. Raises `FileError` where the file is
    missing, damaged, or holds anything else, which is named.
    """
    require_file(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's old storages, which old pickles hold
            return load(file)
    except ForeignGlobal as error:
        raise FileError(
            f"{path} holds more than a generator, plain containers and tensors ({error.name}), and "
            "such a file can run code when it is read. It was not executed.",
            "Pickles of NVIDIA's generators are read. Of any other model, save the generator's "
            "state dict (or a .safetensors) in the environment that made the file.",
        ) from error
    except Exception as error:  # the unpickler meets damage with errors of many kinds
        raise unreadable(path, "a readable pickle") from error
