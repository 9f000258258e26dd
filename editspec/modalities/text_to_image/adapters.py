"""Patches as a LoRA in the namings of programs that draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.adapters import adaptable_axes, join_factors
from editspec.engine.export_results import AdaptedModule, AdapterExport
from editspec.engine.exports import metadata_of
from editspec.engine.stacks import changed_parameters, read_chain
from editspec_runtime.errors import PatchError
from editspec_runtime.io.files import safetensors_bytes, write
from editspec_runtime.io.outputs import EXPORT, adapter_folder, name_ending
from editspec_runtime.io.parts import EDITED, SUFFIX
from editspec_runtime.patches.patch import Patch

FILE = "pytorch_lora_weights.safetensors"
"""The file that the library looks for in a folder."""

LINEAR = "nn.Linear"

Naming = Callable[[str, Tensor, Tensor], dict[str, Tensor]]
"""A function from a module and its factors A [r, in] and B [out, r] to tensors by their names."""


def export_diffusers(files: Sequence[Path | str], out: Path, model: str | None) -> AdapterExport:
    """Write the change of patches as a LoRA by the names that the library has."""

    def name_factors(module: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {f"{EDITED}.{module}.lora_A.weight": a, f"{EDITED}.{module}.lora_B.weight": b}

    return _export("diffusers", files, out, name_factors)


def export_kohya(files: Sequence[Path | str], out: Path, model: str | None) -> AdapterExport:
    """Write the change of patches as a LoRA by the names that programs with a canvas have."""

    def name_factors(module: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        name = f"lora_{EDITED}_{module.replace('.', '_')}"
        # The product is multiplied by alpha over the rank.
        alpha = torch.tensor(float(len(a)), dtype=a.dtype)
        return {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": alpha}

    return _export("kohya", files, out, name_factors)


def _export(
    form: str, files: Sequence[Path | str], out: Path, name_factors: Naming
) -> AdapterExport:
    place = out if name_ending(out) == SUFFIX else out / FILE
    EXPORT.require_free(place)
    if place != out:
        adapter_folder(FILE, FILE).require_free(out)
    stack = read_chain(files)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for parameter in changed_parameters(stack):
        factors[_module_of(stack, parameter)] = join_factors(stack, parameter)
    # Readers scale by one number where ranks differ, whatever the file says: all get the largest.
    rank = max(len(a) for a, _ in factors.values())
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in factors.items():
        missing = rank - len(a)
        padded = torch.nn.functional.pad(a, (0, 0, 0, missing))
        tensors |= name_factors(module, padded, torch.nn.functional.pad(b, (0, missing)))
    write(place, safetensors_bytes(tensors, metadata_of(stack, form)))
    modules = {module: AdaptedModule(LINEAR, rank) for module in factors}
    return AdapterExport(form, place, modules, ())


def _module_of(stack: Sequence[Patch], parameter: str) -> str:
    """The module of the U-Net that a parameter is the weight of.

    Raises `PatchError` where it is of another model.
    """
    if not parameter.startswith(f"{EDITED}/"):
        raise PatchError(
            f"{stack[0].title} changes {parameter}, which is not of the U-Net of a text-to-image "
            "model.",
            "Export it with --format peft.",
        )
    adaptable_axes(stack, parameter)
    return parameter.removeprefix(f"{EDITED}/").removesuffix(".weight")
