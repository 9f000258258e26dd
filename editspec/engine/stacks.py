"""Stacks of patches in files: reading them, and comparing them with their base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from editspec.engine.hub import fetch_patches
from editspec.engine.patch_files import list_patch_files
from editspec_runtime.errors import PatchError
from editspec_runtime.families.selection import Choice
from editspec_runtime.io.files import read_editspec_metadata, read_header
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import FORMAT, Patch, read_patch
from editspec_runtime.patches.soundness import require_alike


def read_stack(patches: Sequence[Path | str]) -> list[Patch]:
    """Read a stack; the folder of a build stands for its patches in their order.

    Raises a `PatchError` where two change a parameter in different shapes.
    """
    stack = [read_patch(path) for path in list_patch_files(fetch_patches(patches))]
    require_alike(stack)
    return stack


def read_chain(patches: Sequence[Path | str]) -> list[Patch]:
    """Read patches that follow one another.

    Raises a `PatchError` where one was solved on other weights than the one before it leaves.
    """
    stack = read_stack(patches)
    for before, after in pairwise(stack):
        if after.metadata["parent"] != before.metadata["result"]:
            raise PatchError(
                f"{after.title} was solved on weights {after.metadata['parent']}, "
                f"and {before.name} leaves {before.metadata['result']}.",
                "Give patches that follow one another, in their order.",
            )
    return stack


def find_stack(path: Path) -> list[Patch] | None:
    """Read the patch, or the patches of a build folder, at a path; None for weights."""
    if path.is_dir() and (path / "patches").is_dir():
        return read_stack([path])
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    metadata = read_editspec_metadata(read_header(path), path)
    return [read_patch(path)] if metadata.get("format") == FORMAT else None


def choose_by_stack(stack: Sequence[Patch]) -> Choice:
    """The choice of the model in a file that a stack makes: the one that it changes."""
    if not stack:
        return Choice()

    def fits(tensors: Mapping[str, TensorInfo]) -> bool:
        """Whether tensors hold all that the patches change, as large as they say."""
        for patch in stack:
            for parameter in patch.parameters:
                found = tensors.get(parameter)
                if found is None or math.prod(found.shape) != patch.numbers(parameter):
                    return False
        return True

    return Choice(fits=fits, digest=str(stack[0].metadata["parent"]))


def changed_parameters(stack: Sequence[Patch]) -> list[str]:
    """The names of all parameters that a stack changes, sorted."""
    names: set[str] = set()
    for patch in stack:
        names |= set(patch.parameters)
    return sorted(names)


def require_belonging(
    path: Path, metadata: Mapping[str, Any], base: str, stack: Sequence[Patch]
) -> None:
    """Raise a `PatchError` unless a stack was built on these weights.

    `metadata` is that of the file of weights at `path`, and `base` the digest of the weights.
    """
    # The chain alone would say only that the digests differ, and not why.
    if metadata.get("patches") and stack and stack[0].metadata["parent"] != base:
        raise PatchError(
            f"{path} holds weights {base} that editspec edited already "
            f"(from {metadata['base']}), and {stack[0].title} was solved on weights "
            f"{stack[0].metadata['parent']}.",
            "Give the unedited base, and the whole stack of patches.",
        )
    require_chain(base, stack)


def require_named(result: str, stack: Sequence[Patch], scale: float = 1.0) -> None:
    """Raise a `PatchError` unless the result is the one that the last patch names.

    No patch names a scaled result.
    """
    if stack and scale == 1.0 and result != stack[-1].metadata["result"]:
        raise PatchError(
            f"The result has digest {result}, and patch {stack[-1].name} names "
            f"{stack[-1].metadata['result']}.",
            "The patches are not what was built; build them again.",
        )
