"""A reader of networks in files of ``torch.export``, which runs no foreign Python.

torch's reader resolves operators by name anywhere in torch, evaluates sizes as Python expressions
and unpickles what it finds. So a file is looked through before torch reads it: only operators of
ATen and arithmetic, only sizes that are symbols and numbers, only tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editspec_runtime.errors import FileError, WeightsError
from editspec_runtime.io.files import require_file

OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|floordiv|mod|getitem|neg|eq|ne|ge|le|lt|gt)"
)
ENTRY = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json"
    r"|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|\.format_version)"
)
SYMBOL = re.compile(r"Symbol\('[su]\d+'(, \w+=(True|False))*\)")
SIZE = re.compile(
    r"(x|\d+|[-+*/(), ]|Max|Min|Mod|FloorDiv|CeilDiv|Integer|Add|Mul|Pow|Eq|Ne|Ge|Le|Gt|Lt|int_oo)*"
)
GUARD = re.compile(r"L\['args'\]\[0\](\[0\])?\.size\(\)\[\d+\] *(<=|>=|==|!=|<|>) *\d+")

HARMLESS = {"target": OPERATORS, "expr_str": SIZE, "guards_code": GUARD}
"""Texts that a graph may hold where torch looks them up or evaluates them, by their keys.

Symbols are written x.
"""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.pt2`` file. Raises as `read_exported` does."""
    return dict(read_exported(path)[0].state_dict())


def read_exported(path: Path) -> tuple[nn.Module, str]:
    """Read the network of a ``.pt2`` file, and the digest of its graph.

    Raises `FileError` where the file is missing, damaged, or holds more than a graph of operators
    and tensors.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            graph = _require_harmless(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own changing formats
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except FileError:
        raise
    except Exception as error:  # torch's reader meets damage with errors of many kinds
        raise FileError(
            f"{path} is not a readable file of torch.export.",
            "It is damaged, or another version of torch wrote it. Save it again with "
            "torch.export.save.",
        ) from error
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    if len(inputs) != 1:
        raise WeightsError(
            f"{path} takes {len(inputs)} inputs, expected the latents alone.",
            "Export a module whose forward takes the latents and nothing else.",
        )
    latent_shape = tuple(int(size) for size in inputs[0].shape[1:])
    module.latent_shape = latent_shape  # type: ignore[assignment]
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and batch != 1:
        raise WeightsError(
            f"{path} takes {batch} latents at a time and no other number.",
            "Export it with one latent, or with a dynamic first dimension.",
        )
    module.single = isinstance(batch, int)  # type: ignore[assignment]
    _restore_layers(module)
    return module, hashlib.sha256(graph).hexdigest()


def _require_harmless(archive: zipfile.ZipFile, path: Path) -> bytes:
    """Read the text of the graph.

    Raises `FileError` where reading or running the file could do more than compute.
    """
    graphs = [name for name in archive.namelist() if name.endswith("models/model.json")]
    if len(graphs) != 1:
        raise FileError(
            f"{path} holds {len(graphs)} graphs, expected one.", "Save it with torch.export.save."
        )
    text = archive.read(graphs[0])
    for key, value in _entries(json.loads(text)):
        parts = value if key == "guards_code" else [value]
        for part in parts:
            if key in HARMLESS and not _is_harmless(key, part):
                raise _refusal(path, str(part))
    for name in archive.namelist():
        if not ENTRY.fullmatch(name):
            raise _refusal(path, name)
        if name.endswith("_config.json") and _asks_for_pickle(json.loads(archive.read(name))):
            raise _refusal(path, f"a pickle in {name}")
        if name.endswith(".pt"):
            # torch's reader would unpickle it with all that a pickle may do.
            try:
                torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
            except Exception as error:  # torch refuses with errors of many kinds
                raise _refusal(path, name) from error
    return text


def _is_harmless(key: str, part: object) -> bool:
    """Whether torch may look up or evaluate a text under a key of `HARMLESS`."""
    if not isinstance(part, str):
        return False
    return HARMLESS[key].fullmatch(SYMBOL.sub("x", part)) is not None


def _asks_for_pickle(configuration: object) -> bool:
    """Whether a configuration of weights has any of them unpickled."""
    return any(key == "use_pickle" and value for key, value in _entries(configuration))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested JSON with its value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _entries(part)
    elif isinstance(value, list):
        for part in value:
            yield from _entries(part)


def _refusal(path: Path, what: str) -> FileError:
    return FileError(
        f"{path} holds more than operators of torch and tensors ({what[:80]}). It was not "
        "executed.",
        "Export the network alone, without custom operators and without the training around it.",
    )


def _restore_layers(module: nn.Module) -> None:
    """Replace modules that a graph made of layers and rectifiers by torch's own."""
    # Layers are recognised by their classes, and closed forms need rectifiers of a known class.
    for name, part in list(module.named_modules()):
        made = _make_layer(part)
        if made is not None:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, made)


def _make_layer(part: nn.Module) -> nn.Module | None:
    """Make the layer or rectifier that a one-operator module is; None for any other."""
    graph = getattr(part, "graph", None)
    if graph is None:
        return None
    calls = [node for node in graph.nodes if node.op.startswith("call")]
    if len(calls) != 1:
        return None
    target = str(calls[0].target)
    if target in ("aten.relu.default", "aten.relu_.default"):
        return nn.ReLU()
    if target in ("aten.leaky_relu.default", "aten.leaky_relu_.default"):
        return nn.LeakyReLU(*calls[0].args[1:])
    if not hasattr(part, "weight"):
        return None
    weight: Any = part.weight
    given = list(calls[0].args[3:])

    def option(index: int, default: Any) -> Any:
        return given[index] if index < len(given) else default

    if target == "aten.linear.default":
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0])
    elif target in ("aten.conv1d.default", "aten.conv2d.default"):
        kind = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
        stride, padding, dilation, groups = option(0, 1), option(1, 0), option(2, 1), option(3, 1)
        size = tuple(weight.shape[2:])
        made = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            size,
            _as_tuple(stride),
            _as_tuple(padding),
            _as_tuple(dilation),
            groups,
        )
    elif target == "aten.conv_transpose2d.input":
        stride, padding, output_padding = option(0, 1), option(1, 0), option(2, 0)
        groups, dilation = option(3, 1), option(4, 1)
        made = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            _as_tuple(stride),
            _as_tuple(padding),
            _as_tuple(output_padding),
            groups,
            dilation=_as_tuple(dilation),
        )
    else:
        return None
    made.weight = weight
    made.register_parameter("bias", getattr(part, "bias", None))
    return made.eval()


def _as_tuple(option: Any) -> Any:
    return option if isinstance(option, (int, str)) else tuple(option)
