"""``editspec apply``: a stack of patches on its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editspec_runtime.errors import (
    PatchError,
)
from editspec_runtime.families.checkpoints import (
    container_of,
    read_checkpoint,
    weights_path,
)
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import (
    write,
)
from editspec_runtime.io.shards import is_sharded, stored
from editspec_runtime.patches.patch import Patch, apply_stack, read_patch, require_chain
from editspec_runtime.patches.streaming import Applied, apply_stored

if TYPE_CHECKING:
    pass
from editspec.engine.outputs import WEIGHTS_FORMAT, require_own_or_free, require_own_or_free_folder


def apply(
    model: str | Path, patches: Sequence[Path | str], out: Path | str | None, *, scale: float = 1.0
) -> Applied:
    """Apply a whole stack of patches to its base and write the weights to `out` (None: write
    nothing, only say).

    Safetensors, of one file or of several with an index, are streamed: a few MiB are in memory at a
    time. `out` has the form of the base: a file, or for several files a folder. With a `scale`
    other than 1 the sum of the changes is multiplied by it, and the result is not one that a patch
    names.

    Raises
    ------
    PatchError
        A patch is damaged, or was solved on other weights.
    FileError
        A file is missing or damaged, or something that editspec did not write lies at `out`.
    """
    base_path = weights_path(str(model), Path())
    stack = [read_patch(Path(patch)) for patch in patches]
    place = Path(out) if out is not None else None
    if is_sharded(base_path):
        weights = stored(base_path)
        if place is not None:
            require_own_or_free_folder(place)
    else:
        if place is not None:
            require_own_or_free(place)
        if container_of(base_path) != "safetensors":
            return _apply_in_memory(base_path, stack, place, scale)
        weights = stored(base_path)

    def accept(base: str, result: str) -> None:
        require_belonging(base_path, weights.metadata, base, stack)
        require_named(result, stack, scale)

    return apply_stored(
        weights,
        stack,
        place,
        lambda base, result: _weights_metadata(base, result, stack, scale),
        accept,
        scale,
    )


def _apply_in_memory(
    base_path: Path, stack: Sequence[Patch], out: Path | None, scale: float
) -> Applied:
    """The same for a container that can only be read whole."""
    checkpoint = read_checkpoint(base_path)
    base = checkpoint.digest()
    require_belonging(base_path, checkpoint.metadata, base, stack)
    weights = apply_stack(checkpoint.generator, stack, scale)
    result = tensors_digest(weights)
    require_named(result, stack, scale)
    if out is not None:
        write(
            out,
            checkpoint.with_generator(
                weights, _weights_metadata(base, result, stack, scale)
            ).to_bytes(),
        )
    changed = {}
    for name in sorted({name for patch in stack for name in patch.parameters}):
        before, after = checkpoint.generator[name].double(), weights[name].double()
        changed[name] = float((after - before).norm() / before.norm())
    return Applied(base, result, changed)


def _weights_metadata(
    base: str, result: str, stack: Sequence[Patch], scale: float
) -> dict[str, object]:
    """What edited weights say of themselves."""
    contents = [patch.metadata["content"] for patch in stack]
    scaled = {"scale": scale} if scale != 1.0 else {}
    return {
        "format": WEIGHTS_FORMAT,
        "version": 1,
        "base": base,
        "patches": contents,
        "result": result,
        **scaled,
    }


def require_belonging(
    path: Path, metadata: Mapping[str, Any], base: str, stack: Sequence[Patch]
) -> None:
    """Raise a `PatchError` unless a stack was built on these weights."""
    if metadata.get("patches") and stack and stack[0].metadata["parent"] != base:
        raise PatchError(
            f"{path} holds weights {base} that editspec edited already (from {metadata['base']}), "
            f"and patch {stack[0].name} was solved on weights {stack[0].metadata['parent']}.",
            "Give the unedited base, and the whole stack of patches.",
        )
    require_chain(base, stack)


def require_named(result: str, stack: Sequence[Patch], scale: float = 1.0) -> None:
    """Raise a `PatchError` unless the result is what the last patch names; a scaled one is named by
    none.
    """
    if stack and scale == 1.0 and result != stack[-1].metadata["result"]:
        raise PatchError(
            f"The result has digest {result}, and patch {stack[-1].name} names {stack[-1].metadata['result']}.",
            "The patches are not what was built; build them again.",
        )
