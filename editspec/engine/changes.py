"""A change of weights as the layers of its model see it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.patches.patch import Patch


def names_of_changed(architecture: Architecture, change: Patch, edited: Sequence[str]) -> list[str]:
    """The name of one layer for each weight that changes, those of `edited` before others."""
    names: dict[str, str] = {}
    for name, layer in architecture.layers.items():
        if layer.parameter in change.parameters and (
            name in edited or layer.parameter not in names
        ):
            names[layer.parameter] = name
    return list(names.values())


def factors_of(change: Patch, layer: Layer) -> tuple[Tensor, Tensor | None]:
    """A and D of the change of a layer; the whole change and None where it has no D.

    The whole change has its outputs before its inputs.
    """
    if layer.parameter not in change.deltas:
        return change.coefficients[layer.parameter], change.directions[layer.parameter]
    delta = change.deltas[layer.parameter]
    # A transposed convolution has its inputs first.
    inputs_first = layer.axes.startswith("i")
    return (delta.transpose(0, 1) if inputs_first else delta), None


def layout_of(parameter: Tensor) -> str:
    """The axes of a parameter that belongs to no layer, by their number.

    They are output, input, taps y and x. A weight with five axes may have one of size 1 in front.
    Any other parameter has axes ``x``.
    """
    if parameter.ndim == 5 and len(parameter) != 1:
        return "o i z y x"
    unknown = " ".join("x" * parameter.ndim)
    return {5: "1 o i y x", 4: "o i y x", 2: "o i"}.get(parameter.ndim, unknown)


def rank_of(change: Patch, limit: int | None) -> int | None:
    """The largest number of directions of a change; the `limit` of the edit where it has none."""
    return max(map(len, change.directions.values()), default=limit)
