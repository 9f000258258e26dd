"""``editspec apply``: a stack of patches on its base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.stacks import (
    changed_parameters,
    choose_by_stack,
    read_stack,
    require_belonging,
    require_named,
)
from editspec.engine.weights_output import (
    STREAMED,
    WeightsOutput,
    find_kind,
    plan_edited,
)
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.selection import Held, choose_container
from editspec_runtime.io.outputs import WEIGHTS_FORMAT
from editspec_runtime.io.shards import read_stored
from editspec_runtime.io.weights import Container
from editspec_runtime.patches.patch import Patch, apply_stack
from editspec_runtime.patches.streaming import Applied, apply_stored, digest_stored


@dataclass(frozen=True)
class ApplyResult(CommandResult):
    """Edited weights.

    Attributes
    ----------
    out
        The path of the weights; None for a dry run.
    base, digest
        The digests of the weights before and after.
    scale
        The factor of the change.
    changed
        The norm of the change of each parameter, relative to the norm of the parameter.
    moved
        The share of the entries of each parameter that are others as they are stored: in 16 bits, a
        change of less than half a step leaves an entry as it was.
    """

    out: Path | None
    digest: str
    base: str
    scale: float
    changed: dict[str, float]
    moved: dict[str, float]

    @property
    def named_by_patch(self) -> bool:
        """Whether the last patch names these weights."""
        return self.scale == 1.0

    def to_dict(self) -> dict[str, Any]:
        """The fields, and whether the last patch names these weights."""
        return {**super().to_dict(), "named_by_patch": self.named_by_patch}

    def to_text(self) -> str:
        """One line for each parameter, then the digest."""
        lines = []
        for name, change in self.changed.items():
            moved = f"{100 * self.moved[name]:.3g} % of its entries moved"
            lines.append(f"{name}: changed by {change:.2e} of its norm, {moved}")
        lines.append(f"{self.out or 'dry run'}: weights {self.digest}")
        if not self.named_by_patch:
            lines.append(f"scaled by {self.scale:g}: no patch names these weights")
        return "\n".join(lines)


def apply(
    model: str | Path,
    patches: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    only_generator: bool = False,
    dry_run: bool = False,
    scale: float = 1.0,
) -> ApplyResult:
    """Apply a whole stack of patches to its base, and write the weights to `out`.

    Safetensors, in one file or in several with an index, are streamed, with a few MiB in memory at
    a time. Whatever else is written is read again before it gets its name.

    Parameters
    ----------
    model
        The base: ``builtin:skyline``, or the path of a checkpoint.
    patches
        The whole stack, in order.
    out
        A file, or a folder where the base has several files. Its ending says the container:
        ``.safetensors``, ``.pt`` (or ``.pth``, ``.tar``, ``.ckpt``, ``.bin``), or that of the base;
        without an ending it is that of the base. In the base's own container all that the patches
        do not change stays as it is. None: a dry run.
    only_generator
        Write the tensors of the generator alone, in safetensors by the names that its module has.
    dry_run
        Write nothing, and only say what would change.
    scale
        The factor of the sum of the changes. With any other than 1 no patch names the result.

    Raises
    ------
    UsageError
        The ending of `out` asks for what cannot be written.
    PatchError
        A patch is damaged, or was solved on other weights.
    FileError
        A file is missing or damaged, or something that editspec did not write lies at `out`.
    """
    if not math.isfinite(scale):
        raise UsageError(f"--scale is {scale}, and must be a finite number.", "Give --scale 0.5.")
    if dry_run and out is not None:
        raise UsageError("A dry run writes nothing.", "Leave out --dry-run or OUT.")
    base = locate_weights(str(model), Path())
    output = None
    if out is not None:
        output = plan_edited(Path(out), base, only_generator)
        output.require_free()
    stack = read_stack(patches)
    if find_kind(base) in STREAMED and (output is None or output.kind in STREAMED):
        applied = _apply_streaming(base, stack, output, scale)
    else:
        applied = _apply_in_memory(base, stack, output, scale)
    place = None if output is None else output.path
    return ApplyResult(place, applied.result, applied.base, scale, applied.changed, applied.moved)


def _apply_streaming(
    path: Path, stack: Sequence[Patch], output: WeightsOutput | None, scale: float
) -> Applied:
    """Apply a stack to safetensors, part by part."""
    weights = read_stored(path)

    def accept(base: str, result: str) -> None:
        """Refuse digests that do not fit the patches, before anything is written."""
        require_belonging(path, weights.metadata, base, stack)
        require_named(result, stack, scale)

    def make_metadata(base: str, result: str) -> dict[str, object]:
        """The metadata of the edited weights, once their digests are known."""
        return _weights_metadata(base, result, stack, scale)

    def digest_of(container: Container) -> str:
        """The digest of the weights in a container."""
        return digest_stored(weights, container)

    held = Held((), weights.tensors)
    choice = choose_by_stack(stack).in_file(weights.metadata)
    container = choose_container(path, [held], choice, digest_of)
    out = None
    if output is not None:
        out = output.path
        weights, container = output.arrange(weights, container)
    return apply_stored(weights, stack, out, make_metadata, accept, scale, container)


def _apply_in_memory(
    path: Path, stack: Sequence[Patch], output: WeightsOutput | None, scale: float
) -> Applied:
    """Apply a stack to a container that can only be read whole."""
    checkpoint = read_weights(path, choose_by_stack(stack))
    base = checkpoint.digest()
    require_belonging(path, checkpoint.metadata, base, stack)
    weights = apply_stack(checkpoint, stack, scale)
    result = weights.digest()
    require_named(result, stack, scale)
    names = changed_parameters(stack)
    if output is not None:
        said = weights.with_changes({}, _weights_metadata(base, result, stack, scale))
        output.write(said, {name: weights[name] for name in names})
    changed, moved = {}, {}
    for name in names:
        before, after = checkpoint[name].double(), weights[name].double()
        changed[name] = float((after - before).norm() / before.norm())
        moved[name] = float((after != before).double().mean())
    return Applied(base, result, changed, moved)


def _weights_metadata(
    base: str, result: str, stack: Sequence[Patch], scale: float
) -> dict[str, object]:
    """The metadata of edited weights."""
    metadata: dict[str, object] = {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": base,
        "patches": [patch.metadata["content"] for patch in stack],
        "result": result,
    }
    return metadata if scale == 1.0 else metadata | {"scale": scale}
