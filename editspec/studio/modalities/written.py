"""What modalities share whose places are written: there is nothing to paint on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editspec.studio.base import Base
from editspec_compiler.document import entries
from editspec_compiler.matrix_edits import methods_of_matrices
from editspec_runtime.core.architecture import Layer

SHOWN = 12
"""The pairs of an edit whose tokens are shown, at most."""


class WrittenStudio:
    """The part of a modality of the studio that is the same for all texts."""

    parts = ("statistics",)
    methods: Sequence[str] = tuple(methods_of_matrices())
    has_images = False

    def describe_model(self, base: Base) -> dict[str, int]:
        """Return zeros: there are no images of latents."""
        return {"image_size": 0, "seed": 0, "fresh_seed": 0}

    def map_sizes(self, layer: Layer) -> tuple[int, int]:
        """Return zeros: keys are those of tokens."""
        return 0, 0


def sides_of(edit: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the pairs of an edit as plain values, each after the place where it stands."""
    if "pairs" not in edit:
        return [("", edit)]
    found = []
    for index, side in enumerate(entries(edit, "pairs")):
        if isinstance(side, dict):
            found.append((f"pairs[{index}].", side))
    return found
