"""``editspec verify``: whether a stack is as it was built, and whether its spec gives it again."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.engine.lock import lock_path, read_lock
from editspec.engine.provenance import require_signed
from editspec.engine.resources import locate_weights
from editspec.engine.result import DONE, FAILED, CommandResult, to_plain
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.metric import norm, principal_cosines, unfolded
from editspec_runtime.patches.patch import Patch, read_patch, require_chain, stack_results

TOLERANCES = {"float32": (5e-2, 1e-2), "float64": (1e-6, 1e-6)}
"""How far a patch that is solved again elsewhere may be from the first, by the spec's precision:
the relative norm of the difference in the metric of C, and the largest principal angle of D in
radians. A float32 solve amplifies rounding: its L1 loss and Adam's division make two right
solutions differ by percents.
"""

ORTHONORMAL = 1e-4
"""How far D D^T may be from the identity."""


@dataclass(frozen=True)
class Comparison:
    """A patch that was built again.

    Attributes
    ----------
    identical
        Whether the bytes are equal. If they are, all below is None.
    within
        Whether the two are close enough.
    difference
        Relative, in the metric of C.
    angle
        The largest principal angle between the directions, in radians.
    tolerance
        The most that each of the two may be.
    same_environment
        Whether it was built in the environment of the lock, so that the bytes should be equal.
    """

    identical: bool
    within: bool
    difference: float | None = None
    angle: float | None = None
    tolerance: tuple[float, float] | None = None
    same_environment: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, without all that is None."""
        return {name: part for name, part in to_plain(self).items() if part is not None}

    def to_text(self) -> str:
        """The comparison for people."""
        if self.tolerance is None:
            return "built again: identical bytes"
        verdict = "within" if self.within else "NOT within"
        text = (
            f"built again: {verdict} the tolerance: differs by {self.difference:.1e} in the metric "
            f"of C (at most {self.tolerance[0]:.0e}), D by {self.angle:.1e} rad "
            f"(at most {self.tolerance[1]:.0e})"
        )
        if self.same_environment:
            text += "; the environment is the lock's, so that the bytes should be the same"
        return text


@dataclass(frozen=True)
class VerifiedPatch:
    """One patch of a stack; `again` is None where it was not built again."""

    name: str
    rank: int | None
    digest: str
    again: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """The patch as plain values."""
        plain = {"name": self.name, "rank": self.rank, "digest": self.digest}
        return plain | ({} if self.again is None else self.again.to_dict())

    def to_text(self) -> str:
        """One line."""
        line = f"{self.name}: whole, rank {self.rank}"
        return line if self.again is None else f"{line}; {self.again.to_text()}"


@dataclass(frozen=True)
class VerifyResult(CommandResult):
    """A stack that is whole.

    Attributes
    ----------
    base, result
        The digests of the weights before and after.
    signed
        Whether a signature was verified.
    patches
        Each patch.
    """

    base: str
    result: str
    signed: bool
    patches: tuple[VerifiedPatch, ...]

    @property
    def verified(self) -> bool:
        """Whether each patch that was built again is close enough."""
        return all(patch.again is None or patch.again.within for patch in self.patches)

    @property
    def exit_code(self) -> int:
        """1 where a patch is too far from the one that was built again."""
        return DONE if self.verified else FAILED

    def to_dict(self) -> dict[str, Any]:
        """The stack as plain values."""
        return {
            "verified": self.verified,
            "base": self.base,
            "result": self.result,
            "signed": self.signed,
            "patches": [patch.to_dict() for patch in self.patches],
        }

    def to_text(self) -> str:
        """One line a patch, then the digests."""
        lines = [patch.to_text() for patch in self.patches]
        lines += ["signed by this key"] * self.signed
        return "\n".join([*lines, f"weights {self.base} -> {self.result}"])


def verify(
    model: str | Path,
    patches: Sequence[Path | str],
    spec: Path | str | LoadedSpec | None = None,
    *,
    public_key: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> VerifyResult:
    """Check a stack of patches against its base, and against its spec where one is given.

    Each patch file must be as it was written (`read_patch`), finite, of the rank that it names,
    solved on the weights before it, and give the weights that it names. With `spec`, each edit is
    solved again, with nothing taken from a cache, on the weights as the given patches before it
    leave them, and compared: where the environment is that of the lock, the bytes must be the same;
    elsewhere the patch must be within `TOLERANCES`. With `public_key` the build folder that they
    lie in must be signed by that key.

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
        require_signed([Path(path) for path in patches], Path(public_key))
    checkpoint = read_weights(locate_weights(str(model), Path()))
    stack = [read_patch(Path(path)) for path in patches]
    base = checkpoint.digest()
    require_chain(base, stack)
    for patch in stack:
        _require_ranks(patch)
    _require_results(checkpoint, stack)
    again: list[Comparison | None] = [None] * len(stack)
    if spec is not None:
        again = list(_build_again(spec, base, stack, device, progress))
    verified = tuple(
        VerifiedPatch(patch.name, patch.metadata["rank"], patch.metadata["content"], comparison)
        for patch, comparison in zip(stack, again, strict=True)
    )
    result = stack[-1].metadata["result"] if stack else base
    return VerifyResult(base, result, public_key is not None, verified)


def _require_results(checkpoint: Weights, stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` where a patch gives other weights than it names."""
    for patch, result in zip(stack, stack_results(checkpoint, stack), strict=True):
        if result != patch.metadata["result"]:
            raise PatchError(
                f"Patch {patch.name} gives weights {result}, and names {patch.metadata['result']}.",
                "It is not what was built; build it again.",
            )


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


def _build_again(
    spec: Path | str | LoadedSpec,
    base: str,
    stack: Sequence[Patch],
    device: str,
    progress: ProgressCallback,
) -> Iterator[Comparison]:
    """Build each patch again, and compare."""
    session = BuildSession.of(spec, device, progress)
    _require_edits(session, base, stack)
    lock = read_lock(lock_path(session.loaded.path))
    with tempfile.TemporaryDirectory() as empty:
        session = replace(session, cache=Cache(Path(empty)))
        for number, patch in enumerate(stack):
            model = session.current_model()
            built = session.solve(number)
            moment = session.second_moment(model, built.rule.layer).matrix
            locked = lock.edit(patch.name) if lock is not None else None
            same_environment = (
                locked is not None
                and locked.patch == patch.metadata["content"]
                and locked.environment == built.locked.environment
            )
            tolerance = TOLERANCES[session.loaded.spec.precision]
            yield _compare(patch, built.patch, moment, tolerance, same_environment)
            # The next edit is solved on the weights that the given patch leaves.
            session.stack[-1] = patch


def _require_edits(session: BuildSession, base: str, stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` unless a stack is made of the first edits of a spec, on its base."""
    names = [edit.name for edit in session.loaded.spec.edits]
    given = [patch.name for patch in stack]
    if session.base != base or names[: len(given)] != given:
        raise PatchError(
            f"The patches {', '.join(given)} on weights {base} are not those of the spec, "
            f"which has {', '.join(names)} on weights {session.base}.",
            "Give the patches of this spec in their order, and its base.",
        )


def _compare(
    patch: Patch,
    again: Patch,
    moment: Tensor,
    tolerance: tuple[float, float],
    same_environment: bool,
) -> Comparison:
    if patch.to_bytes() == again.to_bytes():
        return Comparison(identical=True, within=True)
    if patch.metadata["edit"] != again.metadata["edit"]:
        raise PatchError(
            f"Patch {patch.name} was built from another edit than the one in the spec: "
            f"{patch.metadata['edit']}, and the spec has {again.metadata['edit']}.",
            "Build the spec, or give the spec as it was.",
        )
    difference = angle = 0.0
    for parameter in patch.parameters:
        first, second = unfolded(patch.delta(parameter)), unfolded(again.delta(parameter))
        metric = moment
        if first.shape[1] != len(moment):
            metric = torch.eye(first.shape[1], dtype=torch.float64)
        size = norm(first, metric)
        difference = max(difference, norm(first - second, metric) / size if size > 0 else math.inf)
        cosines = principal_cosines(patch.row_space(parameter), again.row_space(parameter))
        angle = max(angle, math.acos(min(1.0, float(cosines[-1]))))
    close = difference <= tolerance[0] and angle <= tolerance[1]
    within = close and not same_environment
    return Comparison(False, within, difference, angle, tolerance, same_environment)
