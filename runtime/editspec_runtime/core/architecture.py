"""The shape of a model: its editable layers. This module imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from editspec_runtime.io.headers import TensorInfo


@dataclass(frozen=True)
class Layer:
    """An editable layer: a memory from keys to values (paper section 3.2).

    Attributes
    ----------
    name
        The name in specs, such as ``layer6``.
    parameter
        The edited weight by its name in the checkpoint, such as ``convs.3.conv.weight``.
    in_features, out_features
        The length of a key and of a value. For maps these are channels.
    positions, value_positions
        The numbers of keys and of values that an item of a sample has; None where items differ in
        length, as texts do.
    linear
        Whether the value is linear in the key, so that closed forms hold.
    axes
        The axes of the weight in the checkpoint, in order: ``o`` for outputs, ``i`` for inputs,
        ``y`` and ``x`` for the taps of a kernel, ``1`` for an axis of length 1.
    steps
        The names of what computes the value from the key, in order; empty where the family says it
        once for all layers.
    keys
        The name of the keys that the layer reads, where several layers read the same; empty where
        it has its own.
    """

    name: str
    parameter: str
    in_features: int
    out_features: int
    positions: int | None
    value_positions: int | None
    linear: bool = False
    axes: str = "o i"
    steps: tuple[str, ...] = ()
    keys: str = ""

    def facts(self) -> dict[str, str]:
        """Facts about the layer for a person, in words by name."""
        return {
            "layer": self.name,
            "parameter": self.parameter,
            "features": f"{self.in_features} -> {self.out_features}",
        }

    @property
    def has_taps(self) -> bool:
        """Whether the weight is a kernel, which reads several positions."""
        return any(axis not in "1oi" for axis in self.axes.split())

    @property
    def key_numbers(self) -> int | None:
        """The count of numbers in the keys of one item; None where items differ."""
        return None if self.positions is None else self.in_features * self.positions


@dataclass(frozen=True)
class Architecture:
    """The editable layers of a model, in the order of computation.

    Attributes
    ----------
    family
        The family that the model belongs to.
    layers
        The layers by name.
    details
        Further facts about the model that its family knows, as plain values by name.
    notes
        Sentences about what is assumed of the model because its weights do not say it.
    groups
        The names of layers by a name that stands for all of them in a spec.
    """

    family: str
    layers: Mapping[str, Layer]
    details: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    def facts(self) -> dict[str, Any]:
        """Facts about the model besides its layers, as plain values by name."""
        return dict(self.details)


NUMBERS = ("F32", "F16", "BF16", "F64")
"""The types of numbers that a model may hold, by their names in safetensors."""


def wrong_numbers(tensors: Mapping[str, TensorInfo], names: Iterable[str]) -> list[str]:
    """Describe the tensors of `names` whose numbers are not of a type in `NUMBERS`.

    Returns one line for each type that is found. A line names at most three tensors.
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name in tensors and tensors[name].dtype not in NUMBERS:
            kinds.setdefault(tensors[name].dtype, []).append(name)
    known = f"{', '.join(NUMBERS[:-1])} or {NUMBERS[-1]}"
    lines = []
    for kind, found in kinds.items():
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        verb = "holds" if len(found) == 1 else "hold"
        lines.append(f"{', '.join(found[:3])}{more} {verb} {kind} numbers, expected {known}")
    return lines
