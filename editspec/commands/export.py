"""``editspec export``: specs and patches in the forms of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.engine.adapters import (
    ADAPTABLE,
    ADAPTER,
    CONFIGURATION,
    adaptable_axes,
    adapter_configuration,
    lora_factors,
)
from editspec.engine.outputs import EXPORT_FORMAT, require_free_export
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.stacks import (
    changed_parameters,
    read_chain,
    require_belonging,
    require_named,
)
from editspec.modalities.image.records import export_record
from editspec_compiler import Problem, SpecError
from editspec_runtime.codes import Code
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import find_family
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.io.outputs import adapter_folder
from editspec_runtime.patches.patch import Patch, apply_stack

FORMATS = ("record", "peft", "delta", "full")


@dataclass(frozen=True)
class RecordExport(CommandResult):
    """A record of the authors' notebook: where it lies, and the name of its edit."""

    out: Path
    edit: str

    def to_text(self) -> str:
        """One line."""
        return f"{self.out}: {self.edit}"


@dataclass(frozen=True)
class AdaptedModule:
    """A module that changes: the kind that it has to be, and the rank of its LoRA."""

    kind: str
    rank: int


@dataclass(frozen=True)
class AdapterExport(CommandResult):
    """An adapter of peft.

    Attributes
    ----------
    format, out
        ``peft``, and the folder.
    modules
        Each that changes.
    notes
        All that peft cannot do with it.
    """

    format: str
    out: Path
    modules: dict[str, AdaptedModule]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """One line a module, then notes and place."""
        lines = [
            f"{name}: {module.kind}, LoRA of rank {module.rank}"
            for name, module in self.modules.items()
        ]
        return "\n".join([*lines, *self.notes, str(self.out)])


@dataclass(frozen=True)
class TensorsExport(CommandResult):
    """Plain tensors: ``delta`` or ``full``, where they lie, and the shape of each."""

    format: str
    out: Path
    tensors: dict[str, list[int]]

    def to_text(self) -> str:
        """One line a tensor, then the place."""
        lines = [f"{name}: {' x '.join(map(str, shape))}" for name, shape in self.tensors.items()]
        return "\n".join([*lines, str(self.out)])


def export(
    files: Sequence[Path | str],
    format: str,
    out: Path | str,
    *,
    model: str | Path | None = None,
) -> RecordExport | AdapterExport | TensorsExport:
    """Make a record of a spec for the authors' notebook, or of patches all that other tools load.

    Parameters
    ----------
    files
        A spec, or patches in their order.
    format
        ``record``: of one spec. ``peft``: the change of the patches as a LoRA. ``delta``: the
        change of each parameter, by its name and in its shape, summed up in float64 and rounded
        once. ``full``: the parameters that change, as they are afterwards.
    out
        A file; of ``peft``, a folder.
    model
        For ``full``: the base of the patches.

    Raises
    ------
    SpecError
        The spec is wrong, or says more than a record can hold; or there is no such format.
    UsageError
        The files or the model do not fit the format.
    PatchError
        The patches do not follow one another, were built on other weights, or change more than the
        format can hold.
    FileError
        Something else lies at `out`.
    """
    if format not in FORMATS:
        known = f"known here: {', '.join(FORMATS)}"
        raise SpecError(
            "--format",
            [Problem(f"there is no format {format}", hint=known, code=Code.OPTION_UNFIT)],
        )
    if format == "record" and len(files) > 1:
        raise UsageError("A record is made of one SPEC.", "a record is made of one SPEC")
    if (format == "full") is (model is None):
        raise UsageError("--format full and --model BASE belong together.", "Give both or neither.")
    out = Path(out)
    if format == "record":
        return RecordExport(out, export_record(files[0], out))
    stack = read_chain(files)
    if format == "peft":
        return _export_peft(stack, out)
    if format == "delta":
        return _export_delta(stack, out)
    return _export_full(stack, out, str(model))


def _export_peft(stack: Sequence[Patch], out: Path) -> AdapterExport:
    require_free_export(out / ADAPTER)
    adapter_folder(ADAPTER, CONFIGURATION).require_free(out)
    tensors: dict[str, Tensor] = {}
    modules: dict[str, AdaptedModule] = {}
    for name in changed_parameters(stack):
        module = name.removesuffix(".weight")
        kind = ADAPTABLE[adaptable_axes(stack, name)]
        parts = [lora_factors(patch, name) for patch in stack if name in patch.parameters]
        a = torch.cat([a for a, _ in parts], dim=0)
        b = torch.cat([b for _, b in parts], dim=1)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        modules[module] = AdaptedModule(kind, len(a))
    write(out / ADAPTER, safetensors_bytes(tensors, _metadata(stack, "peft")))
    ranks = {name: module.rank for name, module in modules.items()}
    configuration = json.dumps(adapter_configuration(ranks), indent=2, sort_keys=True)
    write(out / CONFIGURATION, f"{configuration}\n".encode())
    note = find_family(stack[0].metadata["family"]).export_note
    return AdapterExport("peft", out, modules, (note,) if note else ())


def _export_delta(stack: Sequence[Patch], out: Path) -> TensorsExport:
    require_free_export(out)
    tensors = {name: _sum_changes(stack, name) for name in changed_parameters(stack)}
    write(out, safetensors_bytes(tensors, _metadata(stack, "delta")))
    return TensorsExport("delta", out, _shapes(tensors))


def _sum_changes(stack: Sequence[Patch], name: str) -> Tensor:
    """The change of a parameter by a stack, in the shape and precision of the parameter."""
    changing = [patch for patch in stack if name in patch.parameters]
    axes = str(changing[0].metadata["layouts"][name]).split()
    total = changing[0].stored_change(name)
    for patch in changing[1:]:
        total = total.reshape(patch.stored_change(name).shape) + patch.stored_change(name)
    dtype = next(iter(changing[0].tensors().values())).dtype
    shape = total.shape[total.ndim - sum(axis != "1" for axis in axes) :]
    return total.reshape(*(1,) * axes.count("1"), *shape).to(dtype)


def _export_full(stack: Sequence[Patch], out: Path, model: str) -> TensorsExport:
    require_free_export(out)
    path = locate_weights(model, Path())
    checkpoint = read_weights(path)
    require_belonging(path, checkpoint.metadata, checkpoint.digest(), stack)
    weights = apply_stack(checkpoint, stack)
    require_named(weights.digest(), stack)
    tensors = {name: weights[name] for name in changed_parameters(stack)}
    write(out, safetensors_bytes(tensors, _metadata(stack, "full")))
    return TensorsExport("full", out, _shapes(tensors))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _metadata(stack: Sequence[Patch], form: str) -> dict[str, Any]:
    """The metadata of an exported file: from which weights to which, and by which patches."""
    first, last = stack[0].metadata, stack[-1].metadata
    return {
        "format": EXPORT_FORMAT,
        "version": 1,
        "form": form,
        "base": first["base"],
        "parent": first["parent"],
        "result": last["result"],
        "patches": [patch.metadata["content"] for patch in stack],
    }
