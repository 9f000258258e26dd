"""What a file is: a spec, a rule, a patch or weights. Imports no torch, except for patches and
``.pt`` checkpoints.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_runtime.core.architecture import Architecture
from editspec_runtime.errors import WeightsError
from editspec_runtime.families import FAMILIES, read_architecture
from editspec_runtime.families.checkpoints import container_of, weights_path
from editspec_runtime.io.files import (
    Header,
    TensorInfo,
    read_editspec_metadata,
    read_header,
    require_file,
)
from editspec_runtime.io.shards import is_sharded

if TYPE_CHECKING:
    from editspec_compiler import LoadedSpec
    from editspec_runtime.families.checkpoints import Checkpoint


def inspect(file: Path | str, family: str | None = None) -> dict[str, Any]:
    """What `file` is and what is in it, as plain values; ``kind`` says which of the four it is.

    `file` may be ``builtin:skyline``, or the index (or folder) of weights in several files. Of
    weights, `family` is found by their names where it is not given. Raises `SpecError` for a spec
    that is wrong, `EditError` for any other file that is damaged or unknown.
    """
    path = weights_path(str(file), Path())
    if is_sharded(path):
        return _checkpoint(path, family)
    require_file(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        return _spec(path)
    if container_of(path) != "safetensors":
        return _checkpoint(path, family)
    header = read_header(path)
    metadata = read_editspec_metadata(header, path)
    if metadata.get("format") == "editspec.patch":
        return _patch(path)
    if metadata.get("format") == "editspec.rule":
        return {"kind": "rule", **metadata, "tensors": _tensors(header)}
    return _checkpoint(path, family)


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{name}:")
            lines += [
                "  " + "  ".join(f"{key} {_plain(part)}" for key, part in entry.items())
                for entry in value
            ]
        elif isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key}: {_plain(part)}" for key, part in value.items()]
        else:
            lines.append(f"{name}: {_plain(value)}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(str(part) for part in value)
    return "none" if value is None else str(value)


def _spec(path: Path) -> dict[str, Any]:
    from editspec_compiler import load

    loaded = load(path)
    edits = [
        {
            "name": edit.name,
            "layer": edit.layer,
            "rank": edit.rank_limit,
            "solver": edit.solver.method,
        }
        for edit in loaded.spec.edits
    ]
    found = {
        "kind": "spec",
        "model": loaded.spec.model.model_dump(exclude_none=True),
        "edits": edits,
    }
    if loaded.spec.checks:
        names = ("measure", "edit", "severity")
        found["checks"] = [
            {"name": check.name or check.measure, **{name: getattr(check, name) for name in names}}
            for check in loaded.spec.checks
        ]
    return found | (
        {"layers": _network_layers(loaded)} if loaded.spec.model.family == "torch" else {}
    )


def _network_layers(loaded: LoadedSpec) -> list[dict[str, str]]:
    """The layers of a torch network, which only its modules tell."""
    from editspec.engine.session import generator_of
    from editspec_runtime.errors import CodeError

    try:
        return _layers(generator_of(loaded).architecture)
    except CodeError:  # looking into a spec runs no code, unless it is allowed
        return []


def _patch(path: Path) -> dict[str, Any]:
    from editspec_runtime.patches.patch import read_patch

    patch = read_patch(path)
    header = read_header(path)
    return {"kind": "patch", **patch.metadata, "tensors": _tensors(header)}


def _checkpoint(path: Path, family: str | None) -> dict[str, Any]:
    from editspec_runtime.families.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(path)
    shape = known_architecture(checkpoint, path, family)
    return {
        "kind": "weights",
        "family": shape.family,
        "image_size": shape.image_size,
        "latent_size": shape.latent_size,
        "parameters": sum(tensor.numel() for tensor in checkpoint.generator.values()),
        "numbers": dict(Counter(str(tensor.dtype)[6:] for tensor in checkpoint.generator.values())),
        "rounding": _rounding(checkpoint, shape),
        "classes": shape.classes,
        "truncation": "possible" if shape.average else "impossible: no mean of w",
        "digest": checkpoint.digest(),
        "edited": checkpoint.metadata if checkpoint.metadata.get("patches") else None,
        "layers": _layers(shape),
    }


def _rounding(checkpoint: Checkpoint, shape: Architecture) -> str:
    """What becomes of the numbers of an edit, in words."""
    kinds = {
        str(checkpoint.generator[layer.parameter].dtype)[6:] for layer in shape.layers.values()
    }
    return f"edits are computed in float32 or float64 and rounded to {' or '.join(sorted(kinds))}"


def _layers(shape: Architecture) -> list[dict[str, str]]:
    return [
        {
            "layer": layer.name,
            "parameter": layer.parameter,
            "channels": f"{layer.in_channels} -> {layer.out_channels}",
            "positions": f"{layer.key_size}x{layer.key_size} -> {layer.value_size}x{layer.value_size}",
        }
        for layer in shape.layers.values()
    ]


def known_architecture(
    checkpoint: Checkpoint, path: Path, family: str | None = None
) -> Architecture:
    """The layout of a checkpoint's generator, as of `family` or of the first family that it fits.

    Raises `WeightsError`: what was found, and what each family expects.
    """
    from editspec_runtime.io.digests import SAFETENSORS_DTYPES

    infos = {
        name: TensorInfo(
            SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape)
        )
        for name, tensor in checkpoint.generator.items()
    }
    if family is not None:
        return read_architecture(family, infos)
    reasons = []
    for name in (name for name, family in FAMILIES.items() if family.read_architecture is not None):
        try:
            return read_architecture(name, infos)
        except WeightsError as error:
            reasons.append(f"as {name}: {error.message}")
    raise WeightsError(
        f"{path} holds no weights of a family that editspec knows.\n" + "\n".join(reasons),
        "Give --family where you know better: it then says only what does not fit that one.",
    )


def _tensors(header: Header) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": info.dtype, "shape": list(info.shape)}
        for name, info in sorted(header.tensors.items())
    ]
