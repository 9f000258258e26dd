"""Fields of ``model:`` that this family reads; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from editspec_runtime.codes import Code
from editspec_runtime.core.fields import Count, FieldProblem, Part
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
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="package.module:factory, which makes the network; needs --allow-code.",
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
        for name, points in (self.layers or {}).items():
            if points.key is None and points.parameter is None:
                message = "neither key nor parameter says which weight is edited"
                yield FieldProblem(
                    ("layers", name), message, "write key: and a module's name", Code.MODULE_UNFIT
                )

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
