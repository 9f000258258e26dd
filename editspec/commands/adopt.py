"""``editspec adopt``: what another tool changed, as a patch of a stack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from editspec.engine.adoption import Adopted, adopt_parameter, share_of
from editspec.engine.changes import layout_of
from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult, describe_rank
from editspec_compiler.schema import NAME
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError, UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.digests import Row, digest, rows_digest, tensor_row
from editspec_runtime.io.files import write
from editspec_runtime.io.headers import TORCH_DTYPES
from editspec_runtime.io.outputs import PATCH
from editspec_runtime.io.parts import EDITED, is_in_parts
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.patches.patch import Patch, layer_metadata, make_patch
from editspec_runtime.patches.soundness import ADOPTED

NAMELESS = "adopted"
"""The name of the edit where the name of the file cannot be one."""

FEW = 6
"""The differences that a message names."""


@dataclass(frozen=True)
class AdoptedParameter:
    """One parameter of an adopted patch.

    Attributes
    ----------
    rank
        The directions of the change; None where it is whole.
    explained
        The share of the squared change that the patch gives.
    inexact
        The count of numbers that come out in other bits than the other tool's.
    """

    rank: int | None
    explained: float
    inexact: int

    def to_line(self, name: str) -> str:
        """The parameter `name` for people."""
        line = f"{name}: {describe_rank(self.rank)}, {self.explained:.2%} of the change"
        return line if self.rank is not None or not self.inexact else f"{line}, not bit for bit"


@dataclass(frozen=True)
class AdoptResult(CommandResult):
    """A patch of what another tool changed.

    Attributes
    ----------
    patch
        The path of the patch.
    name
        The name of its edit.
    digest, base, result
        The digests of the patch, and of the weights before it and after it.
    edited
        The digest of the weights of the other tool.
    exact
        Whether the patch gives these to the last bit.
    explained
        The share of the squared change of all parameters that the patch gives.
    parameters
        The parameters that it changes, by name.
    """

    patch: Path
    name: str
    digest: str
    base: str
    result: str
    edited: str
    exact: bool
    explained: float
    parameters: dict[str, AdoptedParameter]

    def to_text(self) -> str:
        """One line for each parameter, then the whole."""
        lines = [part.to_line(name) for name, part in self.parameters.items()]
        verdict = "exact" if self.exact else f"{self.explained:.2%} of the change"
        return "\n".join([*lines, f"{self.patch}: {verdict}, weights {self.result}"])


@unshared_operations()
def adopt(
    base: str | Path,
    edited: str | Path,
    out: Path | str,
    *,
    rank: int | None = None,
    family: str | None = None,
    progress: ProgressCallback = no_progress,
) -> AdoptResult:
    """Make a patch of what another tool changed, such as a training or a merge.

    Parameters are compared one after the other, and only what goes into the patch is kept. Without
    `rank` the patch holds the whole change, to the last bit.

    Parameters
    ----------
    base, edited
        The weights before and after: ``builtin:skyline``, or the path of a checkpoint or folder.
    out
        The file of the patch; its name is that of the edit.
    rank
        The most directions that the change of a parameter may have: of all changes with as many,
        the nearest one. Vectors, such as biases, are taken as a whole.

    Raises
    ------
    PatchError
        The two differ in more than their numbers, or in nothing.
    UsageError
        The rank is less than 1.
    FileError, WeightsError
        A file is missing or damaged, or of no family that editspec knows.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"The rank is {rank}, and must be at least 1.", "Leave it out, or give 1.")
    PATCH.require_free(Path(out))
    place = locate_weights(str(base), Path())
    before = read_weights(place)
    after = read_weights(locate_weights(str(edited), Path()))
    architecture = find_architecture(before, place, family)
    # Large weights are read anew whenever they are asked for: their rows say what is needed here.
    rows = {name: before.row(name) for name in before}
    others = {name: after.row(name) for name in after}
    _require_alike(rows, others)
    names = [name for name in sorted(rows) if rows[name] != others[name]]
    _require_adoptable(before, names, is_in_parts(place))
    axes = {layer.parameter: layer.axes for layer in architecture.layers.values()}
    layouts = {name: axes.get(name) or layout_of(before[name]) for name in names}
    changes: dict[str, Adopted] = {}
    edited_digest = rows_digest([*others.values(), *after.unread.values()])
    base_digest = rows_digest([*rows.values(), *before.unread.values()])
    for number, name in enumerate(names):
        progress("adopting", number, len(names))
        found = adopt_parameter(name, before[name], after[name], layouts[name], rank)
        assert found.after is not None
        rows[name] = tensor_row(name, found.after)
        # What the patch does not hold is not kept: the weights may be large.
        changes[name] = replace(found, after=None)
    progress("adopting", len(names), len(names))
    result = rows_digest([*rows.values(), *before.unread.values()])
    metadata = {
        "name": Path(out).stem if re.fullmatch(NAME, Path(out).stem) else NAMELESS,
        "edit": digest({"adopted": [base_digest, edited_digest], "rank": rank}),
        "base": base_digest,
        "parent": base_digest,
        "result": result,
    }
    patch = _make_adopted_patch(architecture, changes, layouts, rank, metadata)
    write(Path(out), patch.to_bytes())
    left = sum(each.left for each in changes.values())
    total = sum(each.total for each in changes.values())
    return AdoptResult(
        patch=Path(out),
        name=patch.name,
        digest=patch.metadata["content"],
        base=base_digest,
        result=result,
        edited=edited_digest,
        exact=result == edited_digest,
        explained=share_of(left, total),
        parameters={
            name: AdoptedParameter(each.rank, share_of(each.left, each.total), each.inexact)
            for name, each in changes.items()
        },
    )


def _make_adopted_patch(
    architecture: Architecture,
    changes: Mapping[str, Adopted],
    layouts: Mapping[str, str],
    rank: int | None,
    metadata: Mapping[str, str],
) -> Patch:
    """Make the patch of changes; `metadata` are its name and its digests."""
    tensors = {name: part for each in changes.values() for name, part in each.tensors.items()}
    change = Patch.of(tensors, {})
    facts = {
        "family": architecture.family,
        **layer_metadata(_layers_of(architecture, list(changes))),
        "rank": max((each.rank for each in changes.values() if each.rank), default=None),
        "solver": {"method": ADOPTED, "rank": rank},
    }
    return make_patch(
        change.directions, change.coefficients, layouts, {**metadata, **facts}, change.deltas
    )


def _layers_of(architecture: Architecture, names: list[str]) -> list[str]:
    """The layers of parameters, in the order of computation, then those that are of no layer."""
    found: dict[str, str] = {}
    for layer in architecture.layers.values():
        if layer.parameter in names:
            found.setdefault(layer.parameter, layer.name)
    return [*found.values(), *(name for name in names if name not in found)]


def _require_alike(before: Mapping[str, Row], after: Mapping[str, Row]) -> None:
    """Raise a `PatchError` where weights differ in more than their numbers."""
    differences = list(_structural_differences(before, after))
    if not differences:
        return
    shown = differences[:FEW]
    if len(differences) > FEW:
        shown.append(f"and {len(differences) - FEW} more")
    raise PatchError(
        "The two differ in more than their numbers, which alone a patch changes:\n  "
        + "\n  ".join(shown),
        "Give the base that the other tool began with, in the same layout and precision.",
    )


def _structural_differences(before: Mapping[str, Row], after: Mapping[str, Row]) -> Iterator[str]:
    """Yield what is missing, new, or of another type or shape, a line each."""
    for name in sorted({*before, *after}):
        if name not in after:
            yield f"{name}: missing in the edited weights"
        elif name not in before:
            yield f"{name}: only in the edited weights"
        elif (old := _describe(before[name])) != (new := _describe(after[name])):
            yield f"{name}: {old} -> {new}"


def _describe(row: Row) -> str:
    """The type and the shape of a tensor."""
    _, kind, shape, _ = row
    return f"{TORCH_DTYPES[kind]} {' x '.join(map(str, shape)) or 'number'}"


def _require_adoptable(before: Weights, names: list[str], in_parts: bool) -> None:
    """Raise a `PatchError` where what differs is nothing, or not what a patch may change."""
    if not names:
        raise PatchError(
            "The two have the same numbers: there is nothing to adopt.",
            "Give the weights that the other tool wrote as --edited.",
        )
    whole = [name for name in names if not before[name].is_floating_point()]
    if whole:
        raise PatchError(
            f"{whole[0]} differs, and holds no floating point numbers, which alone a patch "
            "changes.",
            "Take that tensor over from the base before the weights are adopted.",
        )
    others = [name for name in names if in_parts and not name.startswith(f"{EDITED}/")]
    if others:
        raise PatchError(
            f"{others[0]} differs, and of a folder of several models {EDITED}/ alone is patched.",
            f"Adopt the change of {EDITED}/ from a folder whose other models are the base's.",
        )
