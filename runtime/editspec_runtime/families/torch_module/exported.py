"""Networks in files of ``torch.export``, which `io.programs` reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from editspec_runtime.errors import WeightsError, reading_foreign
from editspec_runtime.families.torch_module.dry_run import DryRun, budget_of
from editspec_runtime.families.torch_module.restored import restore_modules
from editspec_runtime.io.programs import read_program, reading_program


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt2`` file. Raises as `read_exported` does."""
    return dict(read_exported(path)[0].state_dict())


def read_exported(path: Path) -> tuple[nn.Module, str]:
    """Read the network of a ``.pt2`` file by its modules, and the digest of its graph.

    Raises `FileError` where the file is missing, damaged, or holds more than a graph of operators
    and tensors.
    """
    program, digest = read_program(path)
    with reading_foreign(path):
        return _make_module(program, path), digest


def _make_module(program: ExportedProgram, path: Path) -> nn.Module:
    with reading_program(path):
        module = torch.export.unflatten(program)
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim == 0:
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
    dry_run = DryRun(program, budget_of(path.stat().st_size), str(path))
    dry_run(module, (torch.empty(1, *latent_shape, dtype=inputs[0].dtype, device="meta"),))
    module.register_forward_pre_hook(dry_run)
    restore_modules(module)
    return module
