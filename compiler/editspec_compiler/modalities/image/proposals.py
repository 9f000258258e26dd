"""Proposals for the edits of a new spec. Imports no torch."""

from __future__ import annotations

from typing import Any

from editspec_runtime.methods.registry import suggest_method
from editspec_runtime.modalities.image.architecture import ImageArchitecture, ImageLayer

SOURCE, TARGET = 0, 1
"""The gallery numbers of the images that a first edit copies from and pastes into."""


def propose_rule(architecture: ImageArchitecture) -> tuple[str, str]:
    """Name the layer and the solver of a new edit.

    The layer lies in the middle, where parts of objects are drawn; the solver is a fast one.
    """
    # Of the layers of one weight the first, which is the whole one.
    whole: dict[str, ImageLayer] = {}
    for each in architecture.layers.values():
        whole.setdefault(each.parameter, each)
    layers = list(whole.values())
    layer = layers[len(layers) // 2]
    return layer.name, suggest_method(linear=layer.linear).name


def propose_edit(architecture: ImageArchitecture) -> dict[str, Any]:
    """Write an edit that copies the middle of an image of the gallery into another image."""
    layer, solver = propose_rule(architecture)
    size = architecture.image_size
    low, high = size // 4, size - size // 4
    return {
        "name": "first-edit",
        "layer": layer,
        "rank": 1,
        "source": {"latent": SOURCE, "mask": {"box": [low, low, high, high]}},
        "target": {"latent": TARGET, "mask": {"box": [low, low, high, high]}},
        "solver": solver,
    }
