"""``editspec verify``: a stack compared with its base and its spec."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editspec.engine.hub import fetch_patches
from editspec.engine.lock import lock_path, read_lock
from editspec.engine.opening import find_architecture
from editspec.engine.patch_files import list_patch_files
from editspec.engine.resources import locate_weights
from editspec.engine.result import DONE, FAILED, CommandResult, describe_rank, to_plain
from editspec.engine.session import BuildSession
from editspec.engine.signatures import Signer, require_identity, require_key
from editspec.engine.stacks import choose_by_stack, read_stack
from editspec.engine.tolerances import TOLERANCES
from editspec_compiler import LoadedSpec
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError, UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.metric import norm, principal_cosines, unfold
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import Patch, stack_results
from editspec_runtime.patches.soundness import require_fitting, require_orthonormal

ENERGY_TOLERANCE = 1e-3
"""The largest relative difference of tr(W C W^T) between two environments."""

FOLLOWING = frozenset({"content", "result", "collateral", "directions"})
"""The fields that follow from the bits of the tensors."""

REBUILD = "It is not what was built; build it again."
"""The hint where the content of a patch contradicts its metadata."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of a patch with a patch that was built again.

    Attributes
    ----------
    identical
        Whether the bytes are equal. If they are, the fields after `within` are None.
    within
        Whether the two are close enough.
    difference
        The relative norm of their difference, in the metric of C.
    angle
        The largest principal angle between their directions, in radians.
    tolerance
        The largest `difference` and `angle` that are close enough.
    parameters
        The parameters that only one of the two changes; None where there is none.
    fields
        The fields that the two say otherwise, besides digests; None where there is none.
    same_environment
        Whether both were built in one environment, so that the bytes should be equal.
    """

    identical: bool
    within: bool
    difference: float | None = None
    angle: float | None = None
    tolerance: tuple[float, float] | None = None
    same_environment: bool | None = None
    parameters: tuple[str, ...] | None = None
    fields: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, without fields that are None."""
        return {name: part for name, part in to_plain(self).items() if part is not None}

    def to_text(self) -> str:
        """The comparison for people."""
        if self.identical:
            return "built again: identical bytes"
        if self.tolerance is None:
            what = list(self.fields or ())
            what += [f"{name} (only one of the two changes it)" for name in self.parameters or ()]
            return f"built again: NOT what the spec gives: {', '.join(what)}"
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
        plain: dict[str, Any] = {"name": self.name, "rank": self.rank, "digest": self.digest}
        if self.again is not None:
            plain |= self.again.to_dict()
        return plain

    def to_text(self) -> str:
        """One line for people."""
        line = f"{self.name}: whole, {describe_rank(self.rank)}"
        return line if self.again is None else f"{line}; {self.again.to_text()}"


@dataclass(frozen=True)
class VerifyResult(CommandResult):
    """A stack that is intact.

    Attributes
    ----------
    base, result
        The digests of the weights before and after.
    signed
        Whether a signature was verified.
    patches
        The patches in order.
    signer
        Who signed, where an identity was asked for.
    """

    base: str
    result: str
    signed: bool
    patches: tuple[VerifiedPatch, ...]
    signer: Signer | None = None

    @property
    def verified(self) -> bool:
        """Whether each patch that was built again is close enough."""
        return all(patch.again is None or patch.again.within for patch in self.patches)

    @property
    def exit_code(self) -> int:
        """The exit code: 1 where a patch is too far from the one that was built again."""
        return DONE if self.verified else FAILED

    def to_dict(self) -> dict[str, Any]:
        """The stack as plain values."""
        plain = {
            "verified": self.verified,
            "base": self.base,
            "result": self.result,
            "signed": self.signed,
            "patches": [patch.to_dict() for patch in self.patches],
        }
        return plain if self.signer is None else plain | to_plain(self.signer)

    def to_text(self) -> str:
        """One line for each patch, then the digests."""
        lines = [patch.to_text() for patch in self.patches]
        if self.signed:
            signer = "this key" if self.signer is None else self.signer.to_text()
            lines.append(f"signed by {signer}")
        return "\n".join([*lines, f"weights {self.base} -> {self.result}"])


@unshared_operations()
def verify(
    model: str | Path,
    patches: Sequence[Path | str],
    spec: Path | str | LoadedSpec | None = None,
    *,
    public_key: Path | str | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    trust_config: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> VerifyResult:
    """Verify a stack of patches against its base, and against its spec.

    Each patch file must have the content that its digest says, finite numbers, and the rank that it
    names. Each patch must be solved on the weights before it, and give the weights that it names.

    Parameters
    ----------
    model
        The base: ``builtin:skyline``, or the path of a checkpoint.
    patches
        The whole stack, in order.
    spec
        The spec of the stack. Each edit is solved again, with nothing taken from a cache, on the
        weights that the given patches before it leave. In the environment of the lock the bytes
        must be equal; elsewhere the patches must be within `TOLERANCES`.
    public_key
        A public key as PEM, which must have signed the build folder of the patches.
    identity
        The e-mail address, or the address of a workflow, that must have signed it instead.
    issuer
        The service that must vouch for `identity`, as any may vouch for any name.
    trust_config
        With `identity`: the client trust config of an own Sigstore, as JSON.

    Raises
    ------
    FileError, PatchError, WeightsError
        A file is missing or damaged, or files do not belong together.
    UsageError
        A signature is asked for, and the packages of the extra ``signing`` are not installed; or
        arguments do not go together.
    SignatureError
        The folder is not signed, or with other files, or by another key or identity.
    SpecError
        The spec is wrong.
    """
    _require_one_signer(public_key, identity, issuer, trust_config)
    signed = public_key is not None or identity is not None
    if signed:
        load_extra("signing")
    files = list_patch_files(fetch_patches(patches))
    signer = None
    if public_key is not None:
        require_key(files, Path(public_key))
    if identity is not None and issuer is not None:
        config = None if trust_config is None else Path(trust_config)
        signer = require_identity(files, identity, issuer, config)
    stack = read_stack(files)
    checkpoint = read_weights(locate_weights(str(model), Path()), choose_by_stack(stack))
    base = checkpoint.digest()
    require_chain(base, stack)
    for patch in stack:
        require_orthonormal(patch)
        architecture = _find_architecture(checkpoint, patch.metadata["family"])
        require_fitting(patch, checkpoint, architecture)
    _require_results(checkpoint, stack)
    again: list[Comparison | None] = [None] * len(stack)
    if spec is not None:
        again = list(_build_again(spec, base, stack, device, progress))
    verified = tuple(
        VerifiedPatch(patch.name, patch.metadata["rank"], patch.metadata["content"], comparison)
        for patch, comparison in zip(stack, again, strict=True)
    )
    result = stack[-1].metadata["result"] if stack else base
    return VerifyResult(base, result, signed, verified, signer)


def _require_one_signer(
    public_key: Path | str | None,
    identity: str | None,
    issuer: str | None,
    trust_config: Path | str | None,
) -> None:
    """Raise a `UsageError` where arguments on who signed do not go together."""
    if public_key is not None and identity is not None:
        raise UsageError(
            "A signature is by a key or by an identity.", "Give --public-key or --identity."
        )
    if identity is None and (issuer is not None or trust_config is not None):
        raise UsageError(
            "An issuer and a trust config are about an identity, and none is given.",
            "Give --identity WHO.",
        )
    if identity is not None and issuer is None:
        raise UsageError(
            f"Any service of a Sigstore may vouch for {identity}, and no issuer is given.",
            "Give --issuer URL: https://token.actions.githubusercontent.com for a workflow of "
            "GitHub, https://accounts.google.com for an account of Google.",
        )


def _require_results(checkpoint: Weights, stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` where a patch gives other weights than it names."""
    for patch, result in zip(stack, stack_results(checkpoint, stack), strict=True):
        if result != patch.metadata["result"]:
            raise PatchError(
                f"Patch {patch.name} gives weights {result}, and names {patch.metadata['result']}.",
                REBUILD,
            )


def _find_architecture(checkpoint: Weights, family: str) -> Architecture | None:
    """Read the layers of weights of a family; None where tensors do not tell them.

    Raises `PatchError` where there is no such family, and `WeightsError` where the weights are of
    another one.
    """
    if family not in FAMILIES:
        raise PatchError(
            f'The patches are of a family "{family}", and there is none.',
            f"The families are {', '.join(FAMILIES)}.",
        )
    if FAMILIES[family].read_architecture is None:
        return None
    return find_architecture(checkpoint, None, family)


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
            moments = {
                rule.parameter: session.second_moment(model, rule.layer).matrix
                for rule in built.rule.rules
            }
            locked = lock.edit(patch.name) if lock is not None else None
            # It is the environment that counts, and not whether the given patch is the locked one:
            # a patch that was changed since is just what is looked for.
            same_environment = locked is not None and locked.environment == built.locked.environment
            tolerance = TOLERANCES[session.loaded.spec.precision]
            yield _compare(patch, built.patch, moments, tolerance, same_environment)
            # The next edit is solved on the weights that the given patch leaves.
            session.stack[-1] = patch


def _require_edits(session: BuildSession, base: str, stack: Sequence[Patch]) -> None:
    """Raise a `PatchError` unless a stack is of the first edits of a spec."""
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
    moments: Mapping[str, Tensor],
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
    other = sorted(set(patch.parameters) ^ set(again.parameters))
    fields = _find_other_fields(patch, again, tolerance[0])
    if other or fields:
        return Comparison(
            False,
            False,
            same_environment=same_environment,
            parameters=tuple(other) or None,
            fields=fields or None,
        )
    difference = angle = 0.0
    for parameter in patch.parameters:
        first, second = unfold(patch.delta(parameter)), unfold(again.delta(parameter))
        # A parameter that is not of an edited layer is measured without a metric.
        metric = moments.get(parameter)
        if metric is None or first.shape[1] != len(metric):
            metric = torch.eye(first.shape[1], dtype=torch.float64)
        size = norm(first, metric)
        relative = norm(first - second, metric) / size if size > 0 else math.inf
        difference = max(difference, relative)
        cosines = principal_cosines(patch.row_space(parameter), again.row_space(parameter))
        # Rounding may leave a cosine just above 1.
        angle = max(angle, math.acos(min(1.0, float(cosines[-1]))))
    close = difference <= tolerance[0] and angle <= tolerance[1]
    within = close and not same_environment
    return Comparison(False, within, difference, angle, tolerance, same_environment)


def _find_other_fields(patch: Patch, again: Patch, tolerance: float) -> tuple[str, ...]:
    """Find the fields in which two patches differ, but those that follow from bits."""
    found = []
    for name in sorted((patch.metadata.keys() | again.metadata.keys()) - FOLLOWING):
        # The layouts of parameters that only one of the two changes are told with these.
        if name == "layouts" and patch.parameters != again.parameters:
            continue
        if patch.metadata.get(name) != again.metadata.get(name):
            found.append(name)
    first, second = patch.metadata.get("collateral"), again.metadata.get("collateral")
    if not _is_close_collateral(first, second, tolerance):
        found.append("collateral")
    return tuple(found)


def _is_close_collateral(first: Any, second: Any, tolerance: float) -> bool:
    """Whether two predictions of the collateral, by layer, are those of close changes."""
    if first is None or second is None or first.keys() != second.keys():
        return first is second
    for layer, numbers in first.items():
        for name, value in numbers.items():
            # The collateral is a square of the change, and the energy does not depend on it.
            most = ENERGY_TOLERANCE if name == "energy" else 4 * tolerance
            other = second[layer][name]
            if abs(value - other) > most * max(abs(value), abs(other)):
                return False
    return True
