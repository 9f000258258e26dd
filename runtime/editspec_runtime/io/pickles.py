"""A reader of pickles that bring their own code, which runs none of it.

NVIDIA's training saves a generator as a pickle in which every module is a record of its class's
name, its source code and its attributes. Only the attributes are rebuilt: plain containers and
tensors. The source is dropped unread, and any other global is refused by name.
"""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.files import require_file, unreadable
from editspec_runtime.io.numpy_data import NumpyData, require_text
from editspec_runtime.io.pickle_scan import AXES, scan_pickle
from editspec_runtime.io.torch_files import load_torch

MODULES = 100_000
"""The most modules that a network may have."""

DEPTH = 100
"""How deep they may lie in one another."""


TENSORFLOW = ("dnnlib.tflib.", "tfutil.")
"""The beginnings of the names of what TensorFlow's generators are pickled as."""


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

    def walk(self) -> Iterator[tuple[str, Module]]:
        """Yield the module and all below it, each with its prefix in a state dict.

        A prefix is empty, or ends in a dot. Raises `UnpicklingError` where there are more modules
        than `MODULES`, or where they lie deeper than `DEPTH`, as in one that is its own child.
        """
        waiting: list[tuple[str, Module, int]] = [("", self, 0)]
        count = 0
        while waiting:
            prefix, module, depth = waiting.pop()
            count += 1
            if count > MODULES or depth > DEPTH:
                raise pickle.UnpicklingError("its modules contain one another, or are too many")
            yield prefix, module
            children = list(module._members("_modules").items())
            for name, child in reversed(children):
                if isinstance(child, Module):
                    waiting.append((f"{prefix}{name}.", child, depth + 1))

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


def load(file: BinaryIO, path: Path = Path()) -> object:
    """Read a pickle of plain containers, numbers, tensors and `Module`.

    Raises `ForeignGlobal` for anything else, and whatever the standard unpickler raises for damage.
    `path` stands in messages.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    scan_pickle(file, size)
    file.seek(0)
    return _Unpickler(file, path).load()


class _Unpickler(pickle.Unpickler):
    """An unpickler that looks globals up in a table, and imports none.

    Nothing is built but what its own methods build.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path
        # A pickle may set attributes of what it names, so it gets a class of its own and bound
        # methods.
        dictionary = type("Dictionary", (dict,), {})
        self._known: dict[str, Any] = {
            **NumpyData().table(),
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "__builtin__.set": set,
            "dnnlib.util.EasyDict": dictionary,
            "torch_utils.persistence._reconstruct_persistent_obj": self._module,
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
        raise pickle.UnpicklingError("it refers to an object outside of itself")

    def _module(self, meta: dict[str, Any]) -> Module:
        return Module(require_text(meta["class_name"]), dict(meta["state"]))

    def _storage(self, data: bytes) -> Any:
        return load_torch(data, self._path)

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        # as_strided refuses what lies outside of the storage; setting the sizes at once would
        # enlarge it.
        flat = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
        if len(size) > AXES or math.prod(size) > flat.numel():
            raise ValueError("a tensor is larger than what is stored of it")
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
            return load(file, path)
    except ForeignGlobal as error:
        if error.name.startswith(TENSORFLOW):
            raise FileError(
                f"{path} is a network of TensorFlow ({error.name}), as StyleGAN and the first "
                "StyleGAN2 were saved. It was not executed.",
                "Convert a StyleGAN2 in NVIDIA's PyTorch repository: python legacy.py "
                "--source=IN.pkl --dest=OUT.pkl. That script knows no older StyleGAN.",
            ) from error
        raise FileError(
            f"{path} holds more than a generator, plain containers and tensors ({error.name}), and "
            "such a file can run code when it is read. It was not executed.",
            "Pickles of NVIDIA's generators are read. Of any other model, save the generator's "
            "state dict (or a .safetensors) in the environment that made the file.",
        ) from error
    except Exception as error:  # the unpickler meets damage with errors of many kinds
        raise unreadable(path, "a readable pickle") from error
