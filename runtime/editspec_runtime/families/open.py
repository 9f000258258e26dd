"""Readers of weights from files, and makers of models from weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.core.model import Model
from editspec_runtime.errors import FileError, WeightsError, reading_foreign
from editspec_runtime.families.contents import describe_held, find_state_dicts, tensor_infos
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.parts import read_parts
from editspec_runtime.families.pickled import find_modules, read_generator
from editspec_runtime.families.registry import (
    FAMILIES,
    containers,
    find_family,
    import_part,
)
from editspec_runtime.families.selection import STATE_DICT, Choice, Held, choose_container
from editspec_runtime.io.archives import EXPANSION, SLACK
from editspec_runtime.io.files import (
    parse_editspec_metadata,
    read_tensors,
    require_printable,
)
from editspec_runtime.io.headers import SAFETENSORS_DTYPES
from editspec_runtime.io.large_files import find_large
from editspec_runtime.io.lazy_tensors import LazyTensors
from editspec_runtime.io.marks import read_metadata
from editspec_runtime.io.parts import is_in_parts
from editspec_runtime.io.pickles import read_pickle
from editspec_runtime.io.places import SUFFIXES, container_of
from editspec_runtime.io.shards import is_sharded, read_stored
from editspec_runtime.io.torch_files import read_torch, say_keys
from editspec_runtime.io.weights import Container, Weights, place_tensor

FEW = 6
"""Tensors that a message names."""


def make_model(
    family: str,
    weights: Mapping[str, Tensor],
    fields: ModelFields | None = None,
    *,
    origin: Origin | None = None,
    precision: str = "float32",
    device: torch.device | None = None,
    compatibility: Compatibility = EDITSPEC,
) -> Model:
    """Make a model of a family around tensors, brought to `precision` and `device`.

    Parameters
    ----------
    family
        The name of the family.
    weights
        The tensors by their names in the model.
    fields
        The fields of ``model:`` in a spec. Default: the family alone.
    origin
        The origin of the model, for families whose weights do not tell all.
    precision, device
        ``float32`` or ``float64``, and where the model computes. Default: float32, in place.
    compatibility
        The way in which the numbers are made.

    Raises
    ------
    WeightsError
        The tensors do not fit the family or the fields.
    CodeError
        Foreign code would have to run, and may not.
    """
    found = find_family(family)
    make = import_part(found.make)
    model: Model = make(
        _place(weights, precision, device),
        fields or found.load_fields()(family=family, weights=""),
        origin or Origin(),
        compatibility,
    )
    return model


def _place(
    weights: Mapping[str, Tensor], precision: str, device: torch.device | None
) -> Mapping[str, Tensor]:
    if isinstance(weights, Weights):
        return weights.place(precision, device)
    return {name: place_tensor(tensor, precision, device) for name, tensor in weights.items()}


def read_weights(path: Path, choice: Choice | None = None, *, whole: bool = True) -> Weights:
    """Read the weights of a model from a file, or from several with an index.

    Reads ``.safetensors``, ``.pt`` and ``.pth``, and the files that the readers of the families
    know. Of all but safetensors, the tensors of the model alone are kept.

    Parameters
    ----------
    path
        The file, the index, or the folder of the index.
    choice
        The model that is meant, where the file holds several. Default: the one that fits a family.
    whole
        Whether all tensors are held. If not, those of a folder of several models that no edit needs
        are only hashed.

    Raises
    ------
    FileError
        The file is missing, damaged, or holds code.
    WeightsError
        The file holds no model, several, or numbers that are not finite.
    """
    choice = choice or Choice()
    with reading_foreign(path):
        if is_in_parts(path):
            weights = read_parts(path, choice, whole=whole)
        elif is_sharded(path):
            weights = _read_sharded(path, choice)
        else:
            weights = _read_file(path, choice)
        require_printable(path, weights.tensors)
        if not isinstance(weights.tensors, LazyTensors):  # which are stored as they are
            _require_stored(weights.tensors, path)
        _require_sound(weights.tensors, path)
    return weights


def _require_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `FileError` where tensors are many times as large as their file.

    A tensor may repeat what is stored of it, which costs nothing until it is computed with.
    """
    files = [path]
    if is_in_parts(path):
        files = [file.path for file in read_stored(path).files]
    elif path.is_dir() or is_sharded(path):
        files = list((path if path.is_dir() else path.parent).iterdir())
    stored = sum(file.stat().st_size for file in files)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > EXPANSION * stored + SLACK:
        raise FileError(
            f"{path} holds {size} bytes of tensors in {stored} bytes, which is more than "
            f"{EXPANSION} times as much.",
            "Save the tensors themselves, each with its own numbers (tensor.clone()).",
        )


def _read_sharded(path: Path, choice: Choice) -> Weights:
    found = read_stored(path)
    named: Mapping[str, Tensor] | None = find_large(found)
    if named is None:
        read: dict[str, Tensor] = {}
        for file in found.files:
            read |= read_tensors(file.path)
        named = read
    metadata = dict(found.metadata)
    return _take_model(path, named, metadata, choice.in_file(metadata))


def _read_file(path: Path, choice: Choice) -> Weights:
    readers: dict[str, str] = {}
    for family in FAMILIES.values():
        readers |= family.readers
    # The first bytes of such a file may be those of another kind (.pt2 and .pt are both archives):
    # its name decides.
    if path.suffix in readers and SUFFIXES.get(path.suffix) != "pickle":
        if choice.key is not None or choice.prefix is not None:
            raise WeightsError(
                f"{path} holds a single network, and no state dict under a key.",
                "Leave out model.key and model.prefix.",
            )
        return Weights(import_part(readers[path.suffix])(path))
    kind = container_of(path)
    said = read_metadata(path)
    metadata = parse_editspec_metadata(said.pop("editspec", "{}"), path)
    choice = choice.in_file(metadata)
    if kind == "torch":
        weights = _read_nested(path, read_torch(path), choice)
    elif kind == "pickle":
        weights = _read_pickle(path, choice)
    else:
        large = find_large(read_stored(path))
        weights = _take_model(path, read_tensors(path) if large is None else large, {}, choice)
    return Weights(weights.tensors, replace(weights.container, metadata=said), metadata)


def _read_pickle(path: Path, choice: Choice) -> Weights:
    content = read_pickle(path)
    modules = find_modules(content)
    # A key may name a state dict beside the modules.
    named = {".".join(key) for key in modules}
    if modules and (choice.key is None or choice.key in named):
        return read_generator(path, modules, choice)
    return _read_nested(path, content, choice)


def _take_model(
    path: Path, named: Mapping[str, Tensor], metadata: Mapping[str, object], choice: Choice
) -> Weights:
    """Pick the weights of the model from the tensors of a file."""

    def digest_of(container: Container) -> str:
        """The digest of the weights in a container."""
        return Weights(_part_of(container, named)).digest()

    found = choose_container(path, [Held((), tensor_infos(named))], choice, digest_of)
    part = _part_of(found, named)
    inside = {found.name(name) for name in part}
    others = {name: named[name] for name in named if name not in inside}
    return Weights(part, replace(found, others=others), metadata)


def _part_of(container: Container, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of the model in a container, by its names; none is read before it is needed."""
    if isinstance(named, LazyTensors):
        return named.renamed(container.model_names(named))
    return container.model_part(named)


def _read_nested(path: Path, content: object, choice: Choice) -> Weights:
    """Pick the weights of the model from what a checkpoint of torch or a pickle holds."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected {_say_expected()}.",
            "Save the state dict of the model: torch.save(model.state_dict(), PATH).",
        )
    dicts = find_state_dicts(content)
    if not dicts:
        raise WeightsError(
            f"{path} holds no model: expected {_say_expected()}, found {say_keys(content)}.",
            "Save the state dict of the model: torch.save(model.state_dict(), PATH).",
        )

    def read(container: Container) -> dict[str, Tensor]:
        """The tensors of the model in a container, with those beside it."""
        tensors = dict(dicts.get((), {})) if container.key else {}
        beside = {name: tensors[name] for name in container.beside if name in tensors}
        return container.model_part(dicts[container.key]) | beside

    def digest_of(container: Container) -> str:
        """The digest of the weights in a container."""
        return Weights(read(container)).digest()

    container = choose_container(path, describe_held(dicts), choice, digest_of)
    return Weights(read(container), container)


def _say_expected() -> str:
    """Say what a checkpoint of torch may hold, by the containers of the families."""
    keys = [container.prefix.removesuffix(".") for container in containers()]
    return f"{', '.join([*keys, *STATE_DICT])}, another key, or a bare state dict of tensors"


def _require_sound(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise a `WeightsError` where tensors cannot be computed with, or are not finite."""
    odd, bad = [], []
    # One at a time: all of them may not fit into memory.
    for name in sorted(tensors):
        tensor = tensors[name]
        if kind := _name_odd_kind(tensor):
            odd.append(f"{name} ({kind})")
        elif not bool(tensor.isfinite().all()):
            bad.append(name)
    if odd:
        rest = f" and {len(odd) - FEW} more" if len(odd) > FEW else ""
        raise WeightsError(
            f"{path} holds tensors that editspec does not compute with: "
            f"{', '.join(odd[:FEW])}{rest}.",
            "Save the model with dense tensors in float32, float16 or bfloat16.",
        )
    if bad:
        rest = f" and {len(bad) - FEW} more tensors" if len(bad) > FEW else ""
        hint = "Such weights compute nothing; use an earlier checkpoint of the training."
        if all(tensors[name].dtype == torch.float16 for name in bad):
            hint = (
                "Numbers beyond 65504 become infinite in float16; use the checkpoint in float32, "
                "or in bfloat16."
            )
        raise WeightsError(
            f"{path} holds numbers that are not finite (NaN or infinity) in "
            f"{', '.join(bad[:FEW])}{rest}.",
            hint,
        )


def _name_odd_kind(tensor: Tensor) -> str:
    """Name a kind of tensor that cannot be computed with; empty for any other."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without its numbers"
    return "" if kind in SAFETENSORS_DTYPES else kind
