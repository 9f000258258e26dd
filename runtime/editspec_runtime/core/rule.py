"""Rules: the compiler makes them from an edit, and the methods solve them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from editspec_runtime.core.method import Settings
from editspec_runtime.io.files import safetensors_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from editspec_runtime.core.model import Model

FORMAT = "editspec.rule"
VERSION = 2


@dataclass(frozen=True)
class LayerRule:
    """A rule K* -> V* for one weight, and the context in which it holds.

    Attributes
    ----------
    layer, parameter
        The layer, and the name in the checkpoint of the weight that changes.
    key
        K*, as the layer's function takes it. For images this is [n, in, h, w], with a ring of
        surroundings where `arguments` say so. For a method that needs outputs, the items that the
        model takes, [n, ...].
    value
        V*, as the layer's function returns it. For a method that needs outputs, the wanted outputs.
    arguments
        The arguments of the layer's function besides key and weight. For a method that needs
        outputs, ``area``: the weight of each number of an output.
    context_keys, context_weights
        Keys [m, in] and their positive weights [m]. m is 0 for a method without directions.
    preserved_keys
        Keys whose values must stay, [p, in]; None where the edit names none.
    observe
        The later layer whose output V* is; None where V* is the output of `layer`.
    units
        The units of the key that are erased in V*; none where V* was copied.
    details
        Plain values that the modality adds to the rule, such as the ``region`` of a map.
    """

    layer: str
    parameter: str
    # Tensors are left out of the text of a rule, which would otherwise fill pages.
    key: Tensor = field(repr=False)
    value: Tensor = field(repr=False)
    arguments: Mapping[str, Tensor] = field(repr=False)
    context_keys: Tensor = field(repr=False)
    context_weights: Tensor = field(repr=False)
    preserved_keys: Tensor | None = field(default=None, repr=False)
    observe: str | None = None
    units: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in a rule file, without the number of the rule."""
        named = {
            "key": self.key,
            "value": self.value,
            "context.key": self.context_keys,
            "context.weight": self.context_weights,
        }
        if self.preserved_keys is not None:
            named["preserved.key"] = self.preserved_keys
        return named | {f"argument.{name}": tensor for name, tensor in self.arguments.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        return {
            "layer": self.layer,
            "parameter": self.parameter,
            "observe": self.observe,
            "units": list(self.units),
            "details": dict(self.details),
        }

    @staticmethod
    def from_parts(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerRule:
        """Make the rule that `to_json` and `tensors` describe.

        Raises `KeyError` and `TypeError` for parts that are missing or unknown.
        """
        prefix = "argument."
        return LayerRule(
            **{**values, "units": tuple(values["units"])},
            key=tensors["key"],
            value=tensors["value"],
            arguments={
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            },
            context_keys=tensors["context.key"],
            context_weights=tensors["context.weight"],
            preserved_keys=tensors.get("preserved.key"),
        )


LazyRule = Callable[["Model"], LayerRule]
"""A function from the model that the rules before left to the rule of a layer."""


@dataclass(frozen=True)
class CompiledEdit:
    """An edit whose rules are not resolved yet.

    Attributes
    ----------
    name, family
        The name of the edit, and the family of the model.
    rules
        A rule for each weight that changes, in the order of computation.
    method
        The settings of the method, which name it.
    rank
        The largest number of directions in the change of a weight; None for a method without a
        limit.
    directions
        The way from the keys of the context to the directions D; None for a method without them.
    provenance
        The digests ``base``, ``parent`` (the weights that the edit is compiled for) and ``edit``,
        and the settings that the tensors depend on.
    """

    name: str
    family: str
    rules: Sequence[LazyRule]
    method: Settings
    rank: int | None
    directions: str | None
    provenance: Mapping[str, Any]

    def with_rules(self, rules: Sequence[LayerRule]) -> ResolvedEdit:
        """Make the edit with its rules resolved."""
        return ResolvedEdit(
            self.name,
            self.family,
            tuple(rules),
            self.method,
            self.rank,
            self.directions,
            self.provenance,
        )


@dataclass(frozen=True)
class ResolvedEdit:
    """An edit whose rules are resolved: the content of a rule file.

    The attributes are those of `CompiledEdit`.
    """

    name: str
    family: str
    rules: tuple[LayerRule, ...]
    method: Settings
    rank: int | None
    directions: str | None
    provenance: Mapping[str, Any]

    @property
    def layers(self) -> list[str]:
        """The names of the layers that change."""
        return [rule.layer for rule in self.rules]

    @property
    def layer(self) -> str:
        """The names of the layers that change, joined by commas."""
        return ",".join(self.layers)

    def to_bytes(self) -> bytes:
        """The edit as a safetensors file; equal edits give equal bytes."""
        tensors = {
            f"{number}.{name}": tensor
            for number, rule in enumerate(self.rules)
            for name, tensor in rule.tensors().items()
        }
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "family": self.family,
            "rules": [rule.to_json() for rule in self.rules],
            "solver": self.method.as_json(),
            "rank": self.rank,
            "directions": self.directions,
            "provenance": dict(self.provenance),
        }
        return safetensors_bytes(tensors, metadata)
