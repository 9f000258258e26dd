"""Is a stack of patches what it says it is, and does its spec give it again?"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.engine.lock import lock_path, read_lock
from editspec.engine.provenance import require_signed
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError
from editspec_runtime.families.checkpoints import read_checkpoint, weights_path
from editspec_runtime.io.cache import Cache
from editspec_runtime.maths.metric import norm, principal_cosines, row_space, unfolded
from editspec_runtime.patches.patch import Patch, read_patch, require_chain, stack_results

TOLERANCES = {"float32": (5e-2, 1e-2), "float64": (1e-6, 1e-6)}
"""How far a patch that is solved again elsewhere may be from the first, by the spec's precision:
the relative norm of the difference in the metric of C, and the largest principal angle of D in
radians. A float32 solve amplifies rounding: its L1 loss and Adam's division make two right
solutions differ by percents.
"""

ORTHONORMAL = 1e-4
"""How far D D^T may be from the identity."""


def verify(
    model: str | Path,
    patches: Sequence[Path | str],
    spec: Path | str | LoadedSpec | None = None,
    *,
    public_key: Path | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Check a stack of patches against its base, and against its spec where one is given.

    Each patch file must be as it was written (`read_patch`), finite, of the rank that it names,
    solved on what lies before it, and give the weights that it names. With `spec`, each edit is
    solved again, with nothing taken from a cache, on the weights as the given patches before it
    leave them, and compared: where the environment is that of the lock, the bytes must be the same;
    elsewhere the patch must be within `TOLERANCES`. With `public_key` the build folder that they
    lie in must be signed by that key.

    Returns
    -------
    dict
        ``verified``; ``base`` and ``result``, digests; ``signed``, whether a signature was
        verified; ``patches``: of each its name, rank, digest, and with `spec` what the comparison
        found: ``identical``, or ``difference`` (relative, in the metric of C) and ``angle`` (the
        largest principal angle between the directions), the ``tolerance`` and whether it is
        ``within``.

    Raises
    ------
    FileError, PatchError, WeightsError
        Something is damaged or does not belong together.
    SignatureError
        The folder is not signed, or other files, or by another key.
    SpecError
        The spec is wrong.
    """
    if public_key is not None:
        require_signed([Path(path) for path in patches], public_key)
    checkpoint = read_checkpoint(weights_path(str(model), Path()))
    stack = [read_patch(Path(path)) for path in patches]
    base = checkpoint.digest()
    require_chain(base, stack)
    for patch in stack:
        _require_ranks(patch)
    for patch, result in zip(stack, stack_results(checkpoint.generator, stack), strict=True):
        if result != patch.metadata["result"]:
            raise PatchError(
                f"Patch {patch.name} gives weights {result}, and names {patch.metadata['result']}.",
                "It is not what was built; build it again.",
            )
    entries: list[dict[str, Any]] = [
        {"name": patch.name, "rank": patch.metadata["rank"], "digest": patch.metadata["content"]}
        for patch in stack
    ]
    if spec is not None:
        for entry, found in zip(
            entries, _rebuilt(spec, base, stack, device, progress), strict=True
        ):
            entry.update(found)
    return {
        "verified": all(entry.get("within", True) for entry in entries),
        "base": base,
        "result": stack[-1].metadata["result"] if stack else base,
        "signed": public_key is not None,
        "patches": entries,
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for patch in found["patches"]:
        line = f"{patch['name']}: whole, rank {patch['rank']}"
        if "identical" in patch:
            if patch["identical"]:
                line += "; built again: identical bytes"
            else:
                verdict = "within" if patch["within"] else "NOT within"
                line += (
                    f"; built again: {verdict} the tolerance: differs by {patch['difference']:.1e} in the metric of C "
                    f"(at most {patch['tolerance'][0]:.0e}), D by {patch['angle']:.1e} rad "
                    f"(at most {patch['tolerance'][1]:.0e})"
                )
                if patch["same_environment"]:
                    line += "; the environment is the lock's, so that the bytes should be the same"
        lines.append(line)
    lines += ["signed by this key"] if found["signed"] else []
    lines.append(f"weights {found['base']} -> {found['result']}")
    return "\n".join(lines)


def _require_ranks(patch: Patch) -> None:
    """Raise a `PatchError` where the directions are not orthonormal, or not as many as the patch
    says.
    """
    for parameter, directions in patch.directions.items():
        rows = directions.double()
        if patch.metadata["rank"] not in (len(rows), None) and "composed" not in patch.metadata:
            raise PatchError(
                f"Patch {patch.name} says rank {patch.metadata['rank']}, and {parameter} has {len(rows)}."
            )
        if "composed" in patch.metadata and patch.metadata["solver"]["rank"] is None:
            continue  # stacked factors give the very change of the stack; orthonormal ones would be rounded anew
        error = float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).abs().max())
        if error > ORTHONORMAL:
            raise PatchError(
                f"Patch {patch.name}: the directions of {parameter} are not orthonormal (by {error:.1e})."
            )


def _rebuilt(
    spec: Path | str | LoadedSpec,
    base: str,
    stack: Sequence[Patch],
    device: str,
    progress: ProgressCallback,
) -> list[dict[str, Any]]:
    """What building each patch again finds."""
    session = BuildSession.of(spec, device, progress)
    names = [edit.name for edit in session.loaded.spec.edits]
    given = [patch.name for patch in stack]
    if session.base != base or names[: len(given)] != given:
        raise PatchError(
            f"The patches {', '.join(given)} on weights {base} are not those of the spec, which has "
            f"{', '.join(names)} on weights {session.base}.",
            "Give the patches of this spec in their order, and its base.",
        )
    lock = read_lock(lock_path(session.loaded.path))
    found = []
    with tempfile.TemporaryDirectory() as empty:
        session = replace(session, cache=Cache(Path(empty)))
        for number, patch in enumerate(stack):
            generator = session.generator()
            built = session.solved(number)
            moment = session.second_moment(generator, built.rule.layer).matrix
            locked = lock.edit(patch.name) if lock is not None else None
            same_environment = (
                locked is not None
                and locked.patch == patch.metadata["content"]
                and locked.environment == built.locked.environment
            )
            found.append(
                _compared(
                    patch, built.patch, moment, session.loaded.spec.precision, same_environment
                )
            )
            session.stack[-1] = patch
    return found


def _compared(
    patch: Patch, again: Patch, moment: Tensor, precision: str, same_environment: bool
) -> dict[str, Any]:
    if patch.to_bytes() == again.to_bytes():
        return {"identical": True, "within": True}
    if patch.metadata["edit"] != again.metadata["edit"]:
        raise PatchError(
            f"Patch {patch.name} was built from another edit than the one in the spec: {patch.metadata['edit']}, "
            f"and the spec has {again.metadata['edit']}.",
            "Build the spec, or give the spec as it was.",
        )
    tolerance = TOLERANCES[precision]
    difference = angle = 0.0
    for parameter in patch.parameters:
        first, second = unfolded(patch.delta(parameter)), unfolded(again.delta(parameter))
        metric = (
            moment
            if first.shape[1] == len(moment)
            else torch.eye(first.shape[1], dtype=torch.float64)
        )
        size = norm(first, metric)
        difference = max(difference, norm(first - second, metric) / size if size > 0 else math.inf)
        cosines = principal_cosines(row_space(patch, parameter), row_space(again, parameter))
        angle = max(angle, math.acos(min(1.0, float(cosines[-1]))))
    close = difference <= tolerance[0] and angle <= tolerance[1]
    return {
        "identical": False,
        "difference": difference,
        "angle": angle,
        "tolerance": list(tolerance),
        "same_environment": same_environment,
        "within": close and not same_environment,
    }
