"""From a file to weights, and from weights to a model that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from editspec_runtime.core.compatibility import EDITSPEC, Compatibility
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.origin import Origin
from editspec_runtime.families.registry import (
    FAMILIES,
    containers,
    find_container,
    find_family,
    import_function,
)
from editspec_runtime.io.digests import SAFETENSORS_DTYPES
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
    read_tensors,
    read_torch,
)
from editspec_runtime.io.places import SUFFIXES, container_of
from editspec_runtime.io.shards import is_sharded, read_stored
from editspec_runtime.io.weights import Container, Weights, place_tensor
from editspec_runtime.modalities.image.generator import Generator

PICKLE = ".pkl"


def make_model(
    family: str,
    weights: Mapping[str, Tensor],
    fields: ModelFields | None = None,
    *,
    origin: Origin | None = None,
    precision: str = "float32",
    device: torch.device | None = None,
    compatibility: Compatibility = EDITSPEC,
) -> Generator:
    """A model of a family around tensors, brought to `precision` and `device`.

    Parameters
    ----------
    fields
        What a spec says of the model. Default: nothing but the family.
    origin
        Where the model comes from, for families whose weights do not tell all.

    Raises
    ------
    WeightsError
        The tensors do not fit the family or the fields.
    CodeError
        Foreign code would have to run, and may not.
    """
    found = find_family(family)
    make = import_function(found.make)
    model: Generator = make(
        _place(weights, precision, device),
        fields or found.fields(family=family, weights=""),
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


def read_weights(path: Path) -> Weights:
    """Read the weights of a model from a file, or from several with an index.

    Reads ``.safetensors``, ``.pt`` and ``.pth``, and what the readers of the families know, such as
    NVIDIA's ``.pkl``. Of all but safetensors, the tensors of the model alone are kept.

    Raises
    ------
    FileError
        The file is missing, damaged, or holds code.
    WeightsError
        It holds no model, or numbers that are not finite.
    """
    weights = _read_sharded(path) if is_sharded(path) else _read_file(path)
    _require_sound(weights.tensors, path)
    return weights


def _read_sharded(path: Path) -> Weights:
    found = read_stored(path)
    named: dict[str, Tensor] = {}
    for file in found.files:
        named |= read_tensors(file.path)
    return _take_model(named, dict(found.metadata))


def _read_file(path: Path) -> Weights:
    readers: dict[str, str] = {}
    for family in FAMILIES.values():
        readers |= family.readers
    # Such a file may look like one of another kind, and its name tells.
    if path.suffix in readers and SUFFIXES.get(path.suffix) != "pickle":
        return Weights(import_function(readers[path.suffix])(path))
    kind = container_of(path)
    if kind == "torch":
        return _read_torch(path)
    if kind == "pickle":
        return Weights(import_function(readers[PICKLE])(path))
    return _take_model(read_tensors(path), read_editspec_metadata(read_header(path), path))


def _take_model(named: Mapping[str, Tensor], metadata: Mapping[str, object]) -> Weights:
    """The weights of the model among the tensors of a file."""
    found = find_container(named)
    part = found.model_part(named)
    inside = {found.name(name) for name in part}
    others = {name: tensor for name, tensor in named.items() if name not in inside}
    return Weights(part, replace(found, others=others), metadata)


def _read_torch(path: Path) -> Weights:
    """The weights of a checkpoint of torch: the state dict of a model, bare or under a name."""
    content = read_torch(path)
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected a rosinality checkpoint or a state "
            "dict."
        )
    container = next(
        (each for each in containers() if each.prefix.removesuffix(".") in content), Container()
    )
    whole = container.prefix.removesuffix(".")
    state = content[whole] if whole else content.get("state_dict", content)
    if not isinstance(state, dict) or not any(isinstance(t, Tensor) for t in state.values()):
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise WeightsError(
            f"{path} holds no generator: expected g_ema, state_dict or a bare state dict of "
            f"tensors, found {found}."
        )
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for each in containers():
        for name in each.beside:
            if isinstance(content.get(name), Tensor):
                tensors[name] = content[name]
    return Weights(tensors, container)


def _require_sound(generator: Mapping[str, Tensor], path: Path) -> None:
    odd = {name: kind for name, tensor in sorted(generator.items()) if (kind := _odd(tensor))}
    if odd:
        few = ", ".join(f"{name} ({kind})" for name, kind in list(odd.items())[:6])
        raise WeightsError(
            f"{path} holds tensors that editspec does not compute with: {few}"
            + (f" and {len(odd) - 6} more." if len(odd) > 6 else "."),
            "Save the generator with dense tensors in float32, float16 or bfloat16.",
        )
    bad = [name for name, tensor in sorted(generator.items()) if not bool(tensor.isfinite().all())]
    if bad:
        half = all(str(generator[name].dtype) == "torch.float16" for name in bad)
        raise WeightsError(
            f"{path} holds numbers that are not finite (NaN or infinity) in {', '.join(bad[:6])}"
            + (f" and {len(bad) - 6} more tensors." if len(bad) > 6 else "."),
            "Numbers beyond 65504 become infinite in float16; use the checkpoint in float32, or in bfloat16."
            if half
            else "A generator with such weights draws nothing; use an earlier checkpoint of the training.",
        )


def _odd(tensor: Tensor) -> str:
    """What keeps a tensor from being computed with and digested, in words; empty where nothing
    does.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without its numbers"
    return "" if kind in SAFETENSORS_DTYPES else kind
