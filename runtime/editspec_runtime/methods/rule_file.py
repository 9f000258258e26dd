"""The reader of rule files."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from editspec_runtime.core.rule import LayerRule, ResolvedEdit
from editspec_runtime.errors import FileError, reading_foreign
from editspec_runtime.io.files import read_tensors
from editspec_runtime.methods.registry import settings_of
from editspec_runtime.methods.rule_header import AGAIN, read_rule_header


def read_rule(path: Path) -> ResolvedEdit:
    """Read a rule file: an edit with its rules resolved.

    Raises `FileError` if the file is missing, damaged, or not a rule of this version.
    """
    with reading_foreign(path):
        return _read_rule(path)


def _read_rule(path: Path) -> ResolvedEdit:
    metadata = read_rule_header(path)
    tensors: list[dict[str, Tensor]] = [{} for _ in metadata["rules"]]
    try:
        read = read_tensors(path)
        for name, known in metadata.get("shared", {}).items():
            read[name] = read[known]
        for name, tensor in read.items():
            number, _, part = name.partition(".")
            tensors[int(number)][part] = tensor
        rules = [
            LayerRule.from_parts(values, parts)
            for values, parts in zip(metadata["rules"], tensors, strict=True)
        ]
        rule = ResolvedEdit(
            name=metadata["name"],
            family=metadata["family"],
            rules=tuple(rules),
            method=settings_of(metadata["solver"]),
            rank=metadata["rank"],
            directions=metadata["directions"],
            provenance=metadata["provenance"],
        )
    except (KeyError, IndexError, TypeError, ValueError, ValidationError) as error:
        raise FileError(f"{path} is a rule with parts missing or unknown.", AGAIN) from error
    for each in rule.rules:
        _require_shapes(path, each)
    # The bytes are those that the content gives, so that nothing in the file is passed over.
    if rule.to_bytes() != path.read_bytes():
        raise FileError(f"{path} is a rule with parts that no rule has.", AGAIN)
    return rule


def _require_shapes(path: Path, rule: LayerRule) -> None:
    """Raise a `FileError` where the tensors of a rule are not of the shapes of its attributes."""
    context, weights = rule.context_keys, rule.context_weights
    fits = context.ndim == 2 and weights.shape == context.shape[:1]
    fits = fits and context.is_floating_point() and weights.is_floating_point()
    kept = rule.preserved
    if kept is not None:
        shares = (kept.key_weights, kept.value_weights)
        fits = fits and kept.key.ndim in (3, 4)
        fits = fits and all(each.ndim == 2 for each in shares)
        fits = fits and all(len(each) == len(kept.key) for each in shares)
    if not fits:
        raise FileError(f"{path} is a rule whose tensors do not fit together.", AGAIN)


def place_as_file(rule: LayerRule, device: torch.device) -> LayerRule:
    """The rule on a device, with its tensors contiguous as in its file.

    Another order of memory would give other bits.
    """

    def place(tensor: Tensor) -> Tensor:
        """Move a tensor to the device, with the strides that a file gives."""
        return tensor.to(device).clone(memory_format=torch.contiguous_format)

    placed = {name: place(tensor) for name, tensor in rule.tensors().items()}
    return LayerRule.from_parts(rule.to_json(), placed)
