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


def key_rows(key: Tensor) -> Tensor:
    """The keys [n, P, in], or maps [n, in, h, w], one below the other: [n * P, in]."""
    positions = key.flatten(2).mT if key.ndim == 4 else key
    return positions.flatten(0, 1)


@dataclass(frozen=True)
class PreservedKeys:
    """Keys of whole items whose values are to stay as they are.

    There are n items, P positions of keys and V positions of values.

    Attributes
    ----------
    key
        The keys as the layer's function takes them: [n, P, in], or maps [n, in, h, w].
    arguments
        The arguments of the layer's function besides key and weight.
    key_weights, value_weights
        The shares of the positions, [n, P] and [n, V]. They sum to at most 1; the keys of the
        sample have the rest.
    added
        Whether the weights are no shares: the keys are added to C, each as often as it says.
    """

    key: Tensor = field(repr=False)
    arguments: Mapping[str, Tensor] = field(repr=False)
    key_weights: Tensor = field(repr=False)
    value_weights: Tensor = field(repr=False)
    added: bool = False

    def rows(self) -> tuple[Tensor, Tensor]:
        """The keys that count, [p, in], and their shares, [p]."""
        shares = self.key_weights.flatten()
        return key_rows(self.key)[shares > 0], shares[shares > 0]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in a rule file."""
        named = {
            "key": self.key,
            "key_weights": self.key_weights,
            "value_weights": self.value_weights,
        }
        return named | {f"argument.{name}": each for name, each in self.arguments.items()}

    def mix(self, share: float, own: Tensor, kept: Tensor, weights: Tensor) -> Tensor:
        """Join a metric of the sample and one of these keys, [n, n] each.

        Of keys that are not added, `share` is that of all of them, and `weights` are theirs.
        """
        if self.added:
            return own + kept
        return (1 - share * float(weights.sum())) * own + share * kept

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], *, added: bool = False) -> PreservedKeys:
        """Make the keys that `tensors` describes. Raises `KeyError` for parts that are missing."""
        return PreservedKeys(
            key=tensors["key"],
            arguments=_below("argument.", tensors),
            key_weights=tensors["key_weights"],
            value_weights=tensors["value_weights"],
            added=added,
        )


@dataclass(frozen=True)
class Refinement:
    """What the outputs of a model should be, and the steps that take them there.

    Attributes
    ----------
    items, wanted
        The items of the rule, as the model takes them, [n, ...], and the outputs that are wanted of
        them, [n, ...].
    kept, kept_area
        The items whose outputs must stay, [m, ...], and how much each position of these counts,
        [m, 1, ...].
    steps, learning_rate
        The number of steps of Adam, and their first rate, for weights of root mean square 1.
    weight
        How much the items of the rule count; those that are kept count 1.
    whiten
        Whether the steps move the change by whitened keys.
    """

    items: Tensor = field(repr=False)
    wanted: Tensor = field(repr=False)
    kept: Tensor = field(repr=False)
    kept_area: Tensor = field(repr=False)
    steps: int
    learning_rate: float
    weight: float
    whiten: bool = False

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in a rule file."""
        names = ("items", "wanted", "kept", "kept_area")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """The settings, as plain values."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "weight": self.weight,
            "whiten": self.whiten,
        }


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    found = {name for name in tensors if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensors[name] for name in sorted(found)}


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
    preserved
        Keys whose values are to stay; None where the edit names none.
    refinement
        The outputs that the change is refined by; None where it is not refined.
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
    preserved: PreservedKeys | None = None
    refinement: Refinement | None = None
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
        if self.preserved is not None:
            kept = self.preserved.tensors()
            named |= {f"preserved.{name}": tensor for name, tensor in kept.items()}
        if self.refinement is not None:
            outputs = self.refinement.tensors()
            named |= {f"refinement.{name}": tensor for name, tensor in outputs.items()}
        return named | {f"argument.{name}": tensor for name, tensor in self.arguments.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        plain: dict[str, Any] = {
            "layer": self.layer,
            "parameter": self.parameter,
            "observe": self.observe,
            "units": list(self.units),
            "details": dict(self.details),
        }
        if self.refinement is not None:
            plain["refinement"] = self.refinement.to_json()
        if self.preserved is not None and self.preserved.added:
            plain["preserved_added"] = True
        return plain

    @staticmethod
    def from_parts(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerRule:
        """Make the rule that `to_json` and `tensors` describe.

        Raises `KeyError` and `TypeError` for parts that are missing or unknown.
        """
        kept, plain = _below("preserved.", tensors), dict(values)
        added = bool(plain.pop("preserved_added", False))
        refinement = None
        if (settings := plain.pop("refinement", None)) is not None:
            outputs: dict[str, Any] = _below("refinement.", tensors)
            refinement = Refinement(**outputs, **settings)
        return LayerRule(
            **{**plain, "units": tuple(plain["units"])},
            key=tensors["key"],
            value=tensors["value"],
            arguments=_below("argument.", tensors),
            context_keys=tensors["context.key"],
            context_weights=tensors["context.weight"],
            preserved=PreservedKeys.from_tensors(kept, added=added) if kept else None,
            refinement=refinement,
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
    searches
        Whether values are searched for when a rule is resolved, which takes as long as a build.
    """

    name: str
    family: str
    rules: Sequence[LazyRule]
    method: Settings
    rank: int | None
    directions: str | None
    provenance: Mapping[str, Any]
    searches: bool = False

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
        tensors: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        first: dict[tuple[str, int], str] = {}
        for number, rule in enumerate(self.rules):
            for name, tensor in rule.tensors().items():
                # Layers that read the same keys have rules with the very same tensors.
                known = first.setdefault((name, id(tensor)), f"{number}.{name}")
                if known == f"{number}.{name}":
                    tensors[known] = tensor
                else:
                    shared[f"{number}.{name}"] = known
        metadata: dict[str, Any] = {
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
        if shared:
            metadata["shared"] = shared
        return safetensors_bytes(tensors, metadata)
