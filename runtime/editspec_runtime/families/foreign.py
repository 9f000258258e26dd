"""Models in the one file of another program, which `editspec convert` makes a folder of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from editspec_runtime.families.registry import FAMILIES, import_part
from editspec_runtime.io.parts import INDEX, SUFFIX

SHARD = 2**30
"""The bytes of tensors from which on they are written to a file."""


@dataclass(frozen=True)
class ForeignModel:
    """A model as another program keeps it, in the words of a family.

    Attributes
    ----------
    family
        The family of the model.
    files
        The small files that belong beside its weights, by name.
    count
        The number of its tensors.
    tensors
        Yields each tensor with its name in the family, one at a time.
    quantised
        The kinds of quantised tensors that it holds; empty where there are none.
    """

    family: str
    files: Mapping[str, bytes]
    count: int
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    quantised: tuple[str, ...] = ()


def find_importer(path: Path) -> Callable[[Path], ForeignModel] | None:
    """The reader of a file of another program by its ending; None where no family has one."""
    for family in FAMILIES.values():
        place = family.imports.get(path.suffix.lower())
        if place is not None:
            importer: Callable[[Path], ForeignModel] = import_part(place)
            return importer
    return None


def write_folder(folder: Path, model: ForeignModel, progress: Callable[[int, int], None]) -> None:
    """Write a model into an empty folder.

    At most `SHARD` bytes and one tensor are in memory at a time. `progress` takes the number of
    tensors that are done, and of all.
    """
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    places: dict[str, str] = {}
    held: dict[str, Tensor] = {}

    def flush() -> None:
        """Write the tensors that are held to a file of their own."""
        name = f"model-{len(set(places.values())) + 1:05}{SUFFIX}"
        save_file(held, folder / name)
        places.update(dict.fromkeys(held, name))
        held.clear()

    for number, (name, tensor) in enumerate(model.tensors()):
        held[name] = tensor.contiguous()
        progress(number + 1, model.count)
        if sum(each.nbytes for each in held.values()) >= SHARD:
            flush()
    if held:
        flush()
    if len(set(places.values())) == 1:
        (folder / f"model-00001{SUFFIX}").rename(folder / f"model{SUFFIX}")
    else:
        index = {"metadata": {}, "weight_map": places}
        (folder / f"model{INDEX}").write_text(json.dumps(index))
