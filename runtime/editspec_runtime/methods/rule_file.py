"""The reader of rule files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from editspec_runtime.core.rule import FORMAT, VERSION, LayerRule, ResolvedEdit
from editspec_runtime.errors import FileError, reading_foreign
from editspec_runtime.io.files import read_editspec_metadata, read_header, read_tensors
from editspec_runtime.methods.registry import settings_of


def read_rule(path: Path) -> ResolvedEdit:
    """Read a rule file: an edit with its rules resolved.

    Raises `FileError` if the file is missing, damaged, or not a rule of this version.
    """
    with reading_foreign(path):
        return _read_rule(path)


def _read_rule(path: Path) -> ResolvedEdit:
    metadata: dict[str, Any] = read_editspec_metadata(read_header(path), path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise FileError(
            f"{path} is not a rule of version {VERSION}.",
            "Build again to write the rule anew.",
        )
    tensors: list[dict[str, Tensor]] = [{} for _ in metadata.get("rules", [])]
    try:
        for name, tensor in read_tensors(path).items():
            number, _, part = name.partition(".")
            tensors[int(number)][part] = tensor
        rules = [
            LayerRule.from_parts(values, parts)
            for values, parts in zip(metadata["rules"], tensors, strict=True)
        ]
        return ResolvedEdit(
            name=metadata["name"],
            family=metadata["family"],
            rules=tuple(rules),
            method=settings_of(metadata["solver"]),
            rank=metadata["rank"],
            directions=metadata["directions"],
            provenance=metadata["provenance"],
        )
    except (KeyError, IndexError, TypeError, ValueError, ValidationError) as error:
        raise FileError(
            f"{path} is a rule with parts missing or unknown.",
            "Build again to write the rule anew.",
        ) from error


def place_as_file(rule: LayerRule, device: torch.device) -> LayerRule:
    """The rule on a device, with its tensors contiguous as in its file.

    Another order of memory would give other bits.
    """

    def place(tensor: Tensor) -> Tensor:
        """Move a tensor to the device, with the strides that a file gives."""
        return tensor.to(device).clone(memory_format=torch.contiguous_format)

    placed = {name: place(tensor) for name, tensor in rule.tensors().items()}
    return LayerRule.from_parts(rule.to_json(), placed)
