"""Patches that follow one another from a base."""

from __future__ import annotations

from collections.abc import Sequence

from editspec_runtime.errors import PatchError
from editspec_runtime.patches.patch import Patch


def require_chain(base: str, patches: Sequence[Patch]) -> None:
    """Raise a `PatchError` unless each patch was solved on the weights before it.

    For the first patch these weights are the `base`, then each time the result of the patch before.
    """
    expected, place = base, "these weights"
    for patch in patches:
        if patch.metadata["parent"] != expected:
            raise PatchError(
                f"{patch.title} was solved on weights {patch.metadata['parent']}, "
                f"and {place} have digest {expected}.",
                _hint(base, patches, patch),
            )
        if patch.metadata["base"] != base:
            raise PatchError(
                f"{patch.title} is of a stack that starts from weights {patch.metadata['base']}, "
                f"and these weights have digest {base}.",
                "Apply the whole stack at once to the weights that it was built from.",
            )
        expected, place = patch.metadata["result"], f"the weights after {patch.name}"


def _hint(base: str, patches: Sequence[Patch], stranger: Patch) -> str:
    """Say what to do about a patch that does not fit its place in a stack."""
    parent = stranger.metadata["parent"]
    if stranger.metadata["base"] != base:
        return (
            f"Its stack starts from weights {stranger.metadata['base']}: give those as the base, "
            "or take it over to these weights with editspec rebase."
        )
    if parent == base:
        return "It comes first in its stack: give the patches in the order of their edits."
    for patch in patches:
        if patch.metadata["result"] == parent:
            return f"It comes after {patch.name}: give the patches in the order of their edits."
    return "A patch before it is missing: give the whole stack, in the order of the edits."
