"""``editspec rebase``: a valid stack of patches in a new order or on another base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editspec.engine.folder import BuildFolder
from editspec.engine.patch_files import number_files
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.engine.stacks import choose_by_stack, read_stack
from editspec_compiler import LoadedSpec, load
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError, UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.weights import Weights
from editspec_runtime.patches.patch import Patch, make_patch, stack_results


@dataclass(frozen=True)
class RebaseResult(CommandResult):
    """The new stack."""

    patches: tuple[Patch, ...]

    def to_dict(self) -> dict[str, Any]:
        """The digests of each patch."""
        names = ("name", "content", "parent", "result")
        entries = []
        for patch in self.patches:
            entries.append({name: patch.metadata[name] for name in names})
        return {"patches": entries}

    def to_text(self) -> str:
        """One line for each patch."""
        return "\n".join(
            f"{patch.name}: weights {patch.metadata['result']}" for patch in self.patches
        )


def rebase(
    patches: Sequence[Path | str],
    model: str | Path,
    out: Path | str,
    *,
    spec: Path | str | LoadedSpec | None = None,
    keep_deltas: bool = False,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> RebaseResult:
    """Make a valid stack of patches, and write it to `out`/patches.

    Patches may have been dropped, moved, or brought to another base.

    Parameters
    ----------
    patches
        The patches in the order of the new stack.
    model
        The base of the new stack.
    spec
        The spec of the patches: each edit is solved anew on the weights that it now stands on.
        Patches before which nothing changed are taken as they are.
    keep_deltas
        Keep the changes and solve nothing: each patch gets its new parent and result.

    Raises
    ------
    UsageError
        Both or neither of `spec` and `keep_deltas` are given.
    PatchError
        A patch does not fit the weights, or the spec has no edit of its name.
    FileError
        Foreign files lie at `out`.
    """
    if (spec is not None) is keep_deltas:
        raise UsageError(
            "Patches are either solved again or kept.",
            "Give --spec SPEC to solve again, or --keep-deltas.",
        )
    stack = read_stack(patches)
    checkpoint = read_weights(locate_weights(str(model), Path()), choose_by_stack(stack))
    if spec is None:
        made = _keep_deltas(stack, checkpoint)
    else:
        made = _solve_again(stack, checkpoint, spec, device, progress)
    names = number_files(patch.name for patch in made)
    folder = BuildFolder.prepare(Path(out), names)
    for number, patch in enumerate(made):
        folder.keep(folder.patch(number), patch.to_bytes())
    folder.finish([_manifest_entry(patch) for patch in made], rules=False)
    return RebaseResult(tuple(made))


def _manifest_entry(patch: Patch) -> dict[str, Any]:
    metadata = patch.metadata
    return {"name": patch.name, "digest": metadata["content"], "result": metadata["result"]}


def _keep_deltas(stack: Sequence[Patch], checkpoint: Weights) -> list[Patch]:
    """Give patches new parents and results, and keep their changes."""
    base = parent = checkpoint.digest()
    # The first three are written anew, and the layouts are passed by themselves.
    left_out = ("content", "format", "version", "layouts")
    made = []
    for patch, result in zip(stack, stack_results(checkpoint, stack), strict=True):
        metadata = {name: part for name, part in patch.metadata.items() if name not in left_out}
        metadata |= {"base": base, "parent": parent, "result": result}
        layouts = patch.metadata["layouts"]
        made.append(
            make_patch(patch.directions, patch.coefficients, layouts, metadata, patch.deltas)
        )
        parent = result
    return made


def _solve_again(
    stack: Sequence[Patch],
    checkpoint: Weights,
    spec: Path | str | LoadedSpec,
    device: str,
    progress: ProgressCallback,
) -> list[Patch]:
    loaded = spec if isinstance(spec, LoadedSpec) else load(spec)
    loaded.require_edits()
    edits = {edit.name: edit for edit in loaded.spec.edits}
    strangers = [patch.name for patch in stack if patch.name not in edits]
    if strangers:
        raise PatchError(
            f"The spec has no edits {', '.join(strangers)}.",
            "Give the spec of these patches, or --keep-deltas.",
        )
    kept = [edits[patch.name] for patch in stack]
    chosen = loaded.spec.model_copy(update={"edits": kept})
    session = BuildSession.of(replace(loaded, spec=chosen), device, progress)
    if session.base != checkpoint.digest():
        # On another base the lock and all patches are of other weights.
        session = replace(session, checkpoint=checkpoint, base=checkpoint.digest(), lock=None)
        session.steps = [replace(step, status="changed") for step in session.steps]
    return [session.edit(number).patch for number in range(len(stack))]
