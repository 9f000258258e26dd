"""A rule: what the compiler makes of one edit, and the solvers consume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.files import (
    read_editspec_metadata,
    read_header,
    read_tensors,
    safetensors_bytes,
)

FORMAT = "editspec.rule"
VERSION = 1


@dataclass(frozen=True)
class SolverSettings:
    """How a rule is solved.

    Attributes
    ----------
    method
        A method of the language, such as ``projected-gradient`` (paper section 3.4) or ``direct``
        (Eqn. 17 and 18).
    steps
        Steps of Adam.
    learning_rate
        Its rate.
    project_every
        Steps between projections into the directions; of no meaning for ``direct``.
    project_gradient
        Whether every gradient is projected, too.
    collateral_weight, collateral
        Of ``least-squares``: the weight of the predicted collateral, or how much of it there may
        be.

    What a method does not know is None.
    """

    method: str = "projected-gradient"
    steps: int = 2001
    learning_rate: float = 0.05
    project_every: int | None = 10
    project_gradient: bool | None = None
    collateral_weight: float | None = None
    collateral: float | None = None

    @staticmethod
    def of(settings: Mapping[str, Any]) -> SolverSettings:
        """Settings of a method by their names; those that are not given are None."""
        return SolverSettings(
            **{field.name: None for field in fields(SolverSettings)} | dict(settings)
        )

    def as_json(self) -> dict[str, Any]:
        """The settings that the method knows, as plain values."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Rule:
    """One or more K* -> V*, the context in which it holds, and everything that its layer's function
    needs.

    Attributes
    ----------
    edit, family, layer, parameter
        The edit's name, the family, the layer, and the weight that changes, by its name in the
        checkpoint.
    rank
        How many directions the change may have; None for a method without a limit.
    solver
        How it is solved.
    key
        K*, haloed: [n, in_channels, h + 2, w + 2]. The outer ring only lends the convolution its
        surroundings. Of ``all-weights``, which starts at the latent, z: [n, latent_size].
    value
        V*: [n, out_channels, h * scale, w * scale]. Of ``all-weights`` the composited images, [n,
        3, size, size].
    arguments
        What the layer's function takes beside key and weight, for this region. Of ``all-weights``,
        ``area`` [n, 1, size, size]: how much each pixel of an image counts.
    context_keys, context_weights
        [m, in_channels] and [m], positive; m is 0 for a method without directions.
    provenance
        Digests: ``base``, ``parent`` (the weights that this rule was resolved on) and ``edit``; and
        the settings that the tensors depend on.
    directions
        How the context's keys give the directions D; None for a method without them.
    units
        The units of the key that V* does without; none where it was copied.
    observe
        The later layer at whose output V* is; None where it is at that of the edited layer.
    """

    edit: str
    family: str
    layer: str
    parameter: str
    rank: int | None
    solver: SolverSettings
    key: Tensor
    value: Tensor
    arguments: Mapping[str, Tensor]
    context_keys: Tensor
    context_weights: Tensor
    provenance: Mapping[str, Any]
    directions: str | None = "zca"
    units: tuple[int, ...] = ()
    observe: str | None = None

    def to_bytes(self) -> bytes:
        """The rule as a safetensors file; equal rules give equal bytes."""
        tensors = {
            "target.key": self.key,
            "target.value": self.value,
            "context.key": self.context_keys,
            "context.weight": self.context_weights,
        } | {f"target.{name}": tensor for name, tensor in self.arguments.items()}
        names = ("edit", "family", "layer", "parameter", "rank", "directions", "units", "observe")
        metadata = {name: getattr(self, name) for name in names}
        return safetensors_bytes(
            tensors,
            {
                "format": FORMAT,
                "version": VERSION,
                **metadata,
                "solver": self.solver.as_json(),
                "provenance": dict(self.provenance),
            },
        )


def read_rule(path: Path) -> Rule:
    """Read a rule file. Raises `FileError` where it is missing, damaged or no rule."""
    metadata: dict[str, Any] = read_editspec_metadata(read_header(path), path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise FileError(f"{path} is not a rule of version {VERSION}.")
    tensors = read_tensors(path)
    try:
        return Rule(
            edit=metadata["edit"],
            family=metadata["family"],
            layer=metadata["layer"],
            parameter=metadata["parameter"],
            rank=metadata["rank"],
            solver=SolverSettings.of(metadata["solver"]),
            directions=metadata["directions"],
            units=tuple(metadata["units"]),
            observe=metadata["observe"],
            key=tensors.pop("target.key"),
            value=tensors.pop("target.value"),
            context_keys=tensors.pop("context.key"),
            context_weights=tensors.pop("context.weight"),
            arguments={name.removeprefix("target."): tensor for name, tensor in tensors.items()},
            provenance=metadata["provenance"],
        )
    except (KeyError, TypeError) as error:
        raise FileError(f"{path} is a rule with parts missing or unknown: {error}.") from error
