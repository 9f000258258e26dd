"""``editspec compose``: one patch of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.result import CommandResult, describe_rank
from editspec.engine.session import BuildSession
from editspec.engine.stacks import changed_parameters, read_chain
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError, UsageError
from editspec_runtime.io.digests import digest
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import PATCH
from editspec_runtime.maths.metric import fold, recompress, unfold
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import Patch, apply_stack, layer_metadata, make_patch
from editspec_runtime.patches.soundness import require_fitting


@dataclass(frozen=True)
class ComposedParameter:
    """One parameter of a composed patch.

    Attributes
    ----------
    rank
        The rank of the change; None where it has no limit.
    lost
        The norm of the part of the change that is lost, relative to that of the change, in the
        metric of C; 0 where the change is exact.
    """

    rank: int | None
    lost: float


@dataclass(frozen=True)
class ComposeResult(CommandResult):
    """A composed patch.

    Attributes
    ----------
    patch
        The path of the patch.
    digest, result
        The digests of the patch and of the weights after it.
    parameters
        The parameters that it changes, by name.
    """

    patch: Path
    digest: str
    result: str
    parameters: dict[str, ComposedParameter]

    def to_text(self) -> str:
        """One line for each parameter, then the digest."""
        lines = []
        for name, part in self.parameters.items():
            lines.append(f"{name}: {describe_rank(part.rank)}, lost {part.lost:.2e}")
        return "\n".join([*lines, f"{self.patch}: weights {self.result}"])


@unshared_operations()
def compose(
    patches: Sequence[Path | str],
    out: Path | str,
    *,
    rank: int | None = None,
    spec: Path | str | LoadedSpec | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> ComposeResult:
    """Make one patch of `patches`, a stack, and write it to `out`.

    Without `rank` the factors of the patches are stacked, and changes without factors are summed
    up: the change is exact. With `rank` the change of each parameter is replaced by the nearest one
    of that rank in the metric of C, which needs the `spec` of the stack.

    Raises
    ------
    UsageError
        One of `rank` and `spec` is given without the other.
    PatchError
        The patches do not follow one another, or with `rank` do not start from the base of the
        spec.
    NumericalError
        C is singular.
    """
    if (rank is None) is not (spec is None):
        raise UsageError(
            "--rank and --spec belong together: C is that of a spec.", "Give both, or neither."
        )
    PATCH.require_free(Path(out))
    stack = read_chain(patches)
    result = stack[-1].metadata["result"]
    names = changed_parameters(stack)
    lost = dict.fromkeys(names, 0.0)
    if rank is None or spec is None:
        tensors = _stack_factors(stack)
    else:
        session = BuildSession.of(spec, device, progress)
        require_chain(session.base, stack)
        for each in stack:
            require_fitting(each, session.checkpoint, None)
        tensors, lost = _recompress(session, stack, rank)
        change = Patch.of(tensors, {})
        result = apply_stack(session.checkpoint, [change]).digest()
    patch = _make_composed_patch(stack, tensors, rank, result)
    write(Path(out), patch.to_bytes())
    ranks = _ranks(patch)
    parameters = {name: ComposedParameter(ranks.get(name), lost[name]) for name in names}
    return ComposeResult(Path(out), patch.metadata["content"], result, parameters)


def _make_composed_patch(
    stack: Sequence[Patch], tensors: dict[str, Tensor], rank: int | None, result: str
) -> Patch:
    change = Patch.of(tensors, {})
    names = changed_parameters(stack)
    layouts: dict[str, str] = {}
    # Where patches say it differently, the first of the stack counts.
    for patch in reversed(stack):
        layouts |= {name: patch.metadata["layouts"][name] for name in patch.parameters}
    ranks = _ranks(change)
    # A parameter without directions has no limit of rank, and then the patch has none.
    largest = max(ranks.values()) if len(ranks) == len(names) else None
    layers = sorted({layer for patch in stack for layer in patch.layers})
    edits = [patch.metadata["edit"] for patch in stack]
    contents = [patch.metadata["content"] for patch in stack]
    metadata = {
        "name": "+".join(patch.name for patch in stack),
        "family": stack[0].metadata["family"],
        **layer_metadata(layers),
        "rank": largest,
        "solver": {"method": "compose", "rank": rank},
        "edit": digest(edits),
        "composed": contents,
        "base": stack[0].metadata["base"],
        "parent": stack[0].metadata["parent"],
        "result": result,
    }
    return make_patch(change.directions, change.coefficients, layouts, metadata, change.deltas)


def _ranks(patch: Patch) -> dict[str, int]:
    """The rank of each parameter whose change has directions."""
    return {name: len(rows) for name, rows in patch.directions.items()}


def _recompress(
    session: BuildSession, stack: Sequence[Patch], rank: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The nearest change of a rank in the metric of C, and the loss of each parameter."""
    tensors: dict[str, Tensor] = {}
    lost = {}
    dtype = getattr(torch, session.loaded.spec.precision)
    for name in changed_parameters(stack):
        moment = _moment(session, name)
        changes = [unfold(patch.delta(name)) for patch in stack if name in patch.parameters]
        found = recompress(sum(changes, torch.zeros(())), moment, rank)
        shape = session.checkpoint.tensors[name].shape
        tensors[f"{name}.D"] = found.directions.to(dtype)
        tensors[f"{name}.A"] = fold(found.coefficients, shape).to(dtype)
        lost[name] = found.lost
    return tensors, lost


def _stack_factors(stack: Sequence[Patch]) -> dict[str, Tensor]:
    """The tensors of a patch whose changes are the sums of those of a stack."""
    tensors: dict[str, Tensor] = {}
    for name in changed_parameters(stack):
        changing = [patch for patch in stack if name in patch.parameters]
        if all(name in patch.directions for patch in changing):
            rows = [patch.directions[name] for patch in changing]
            columns = [patch.coefficients[name] for patch in changing]
            tensors[f"{name}.D"] = torch.cat(rows)
            tensors[f"{name}.A"] = torch.cat(columns, dim=1)
            continue
        total = changing[0].stored_change(name)
        for patch in changing[1:]:
            change = patch.stored_change(name)
            total = total.reshape(change.shape) + change
        tensors[f"{name}.delta"] = total
    return tensors


def _moment(session: BuildSession, parameter: str) -> Tensor:
    """C of the layer that a parameter belongs to, on the base."""
    model = session.current_model()
    for name, layer in model.architecture.layers.items():
        if layer.parameter == parameter:
            return session.second_moment(model, name).matrix
    raise PatchError(
        f"{parameter} is not the weight of a layer, so that there is no C for a lower rank of it.",
        "Compose the patches without --rank.",
    )
