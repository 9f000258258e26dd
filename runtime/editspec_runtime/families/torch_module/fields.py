"""Fields of ``model:`` that this family reads; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from editspec_runtime.codes import Code
from editspec_runtime.core.fields import Count, FieldProblem, Part
from editspec_runtime.io.foreign_code import REFERENCE
from editspec_runtime.modalities.image.fields import ImageFields


class LayerPoints(Part):
    """Begin and end of a layer of a torch network, by the names of its modules."""

    key: str | None = Field(
        None, description="Whose input is the key; default: the module of the parameter."
    )
    value: str | None = Field(
        None, description="Whose output is the value; default: the module of the parameter."
    )
    parameter: str | None = Field(
        None, description="The edited weight; default: that of the key's module."
    )


class ModuleFields(ImageFields):
    """The fields of a network: its code and its weights."""

    module: str | None = Field(
        None,
        pattern=REFERENCE,
        description="package.module:factory, which makes the network; needs --allow-code.",
    )
    arguments: dict[str, Any] | None = Field(
        None,
        description="What the factory is called with, by name: numbers, text, lists, mappings.",
    )
    inputs: dict[str, Any] | None = Field(
        None,
        description=(
            "Inputs of the network besides the latent, by the names that its forward gives them: "
            "numbers, or lists of numbers. Every image gets the same."
        ),
    )
    layers: dict[str, LayerPoints] | None = Field(
        None,
        description="Layers whose value lies behind their own module, by names of yours.",
    )
    latent_shape: list[Count] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="The shape of one latent, such as [100, 1, 1].",
    )

    @property
    def is_exported(self) -> bool:
        """Whether the weights are a file of torch.export, which holds its network."""
        return self.weights.partition("#")[0].endswith(".pt2")

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        """Report a missing or superfluous module, and layers without an edited weight."""
        if self.module is None and not self.is_exported:
            hint = (
                "write package.module:factory, or give a file of torch.export (.pt2) as the weights"
            )
            yield FieldProblem(
                (), f"the family {self.family} needs a module", hint, Code.MODULE_UNFIT
            )
        if self.module is not None and self.is_exported:
            message = "a file of torch.export holds its network, and module names another"
            yield FieldProblem(
                ("module",), message, "leave module out", Code.MODULE_UNFIT, at_key=True
            )
        yield from self._call_problems()
        for name, points in (self.layers or {}).items():
            if points.key is None and points.parameter is None:
                message = "neither key nor parameter says which weight is edited"
                yield FieldProblem(
                    ("layers", name), message, "write key: and a module's name", Code.MODULE_UNFIT
                )

    def _call_problems(self) -> Iterator[FieldProblem]:
        """Report arguments and inputs that cannot be passed to the code."""
        for field, values in (("arguments", self.arguments), ("inputs", self.inputs)):
            if values is not None and self.is_exported:
                message = f"a file of torch.export takes no {field}: its graph has them in it"
                yield FieldProblem(
                    (field,), message, f"leave {field} out", Code.MODULE_UNFIT, at_key=True
                )
            for name, value in (values or {}).items():
                if not name.isidentifier():
                    message = f"{name} is not a name that Python code can give an argument"
                    hint = "write the names as they stand in the code"
                    yield FieldProblem((field, name), message, hint, Code.MODULE_UNFIT, at_key=True)
                if not _is_finite(value):
                    message = f"{name} holds a number that is not finite"
                    yield FieldProblem(
                        (field, name), message, "write finite numbers", Code.VALUE_OUT_OF_RANGE
                    )
        for name, value in (self.inputs or {}).items():
            if _shape_of_numbers(value) is None:
                message = f"{name} is not a number or an even list of numbers"
                hint = "write an input as numbers, such as [0.0, 1.0, 0.0] for the second of three"
                yield FieldProblem(("inputs", name), message, hint, Code.TYPE_WRONG)

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the module's file if it lies below `folder`, or the exported network.

        The graph of an exported network is not part of the digest of its weights.
        """
        if self.is_exported:
            yield self.weights
        if self.module is None:
            return
        path = self.module.partition(":")[0].replace(".", "/")
        for name in (f"{path}.py", f"{path}/__init__.py"):
            if (folder / name).is_file():
                yield name


def _is_finite(value: Any) -> bool:
    """Whether plain values hold neither NaN nor infinity."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _shape_of_numbers(value: Any) -> tuple[int, ...] | None:
    """The sizes of a number or of nested lists of numbers; None where lists are uneven."""
    if not isinstance(value, list):
        return () if isinstance(value, int | float) else None
    shapes = {_shape_of_numbers(part) for part in value}
    if len(shapes) != 1 or None in shapes:
        return None
    (shape,) = shapes
    assert shape is not None
    return (len(value), *shape)
