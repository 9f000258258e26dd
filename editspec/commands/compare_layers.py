"""``editspec compare-layers``: how well layers tell selections from all else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import CommandResult
from editspec.modalities.image.explore import measure_layers, open_at_edit
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class ComparedLayer:
    """One layer of a comparison.

    Attributes
    ----------
    layer
        The name of the layer.
    shares
        For each selection, the share of all positions that have as much of the direction; None
        where it cannot be measured at the layer.
    left, collateral
        The loss of the edit at the layer after least squares, as a share of that before, and the
        predicted collateral of the change; None where least squares does not solve it.
    """

    layer: str
    shares: dict[str, float | None]
    left: float | None
    collateral: float | None

    def to_dict(self) -> dict[str, Any]:
        """The layer, its shares and its numbers in one dict."""
        numbers = {"left": self.left, "collateral": self.collateral}
        return {"layer": self.layer, **self.shares, **numbers}


@dataclass(frozen=True)
class CompareLayersResult(CommandResult):
    """The layers of a model, compared on `images` images."""

    edit: str
    images: int
    layers: tuple[ComparedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """The layers as plain values."""
        layers = [layer.to_dict() for layer in self.layers]
        return {"edit": self.edit, "images": self.images, "layers": layers}

    def to_text(self) -> str:
        """The layers as a table."""
        table = [["layer", *self.layers[0].shares, "left", "collateral"]]
        for layer in self.layers:
            shares = [*layer.shares.values(), layer.left]
            collateral = "-" if layer.collateral is None else f"{layer.collateral:.2g}"
            table.append([layer.layer, *map(_share_text, shares), collateral])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def compare_layers(
    spec: Path | str | LoadedSpec,
    *,
    edit: str | None = None,
    images: int = 100,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CompareLayersResult:
    """Compare how well the layers tell the selections of an edit from all else.

    Selections are the source, the target and the entries of the context. A share is measured for
    each selection at each layer: the share of all positions of `images` images that have as much of
    a direction as the median key of the selection has. The direction is C^-1 k of the mean key k of
    the context; an entry of the context is measured with the other entries. The smaller the share,
    the better a rule at that layer tells the selection from all else.

    Layers of one weight have the same keys, and so the same shares. What the rule asks of them
    differs: at each layer the edit is solved by least squares with its default settings, whatever
    its own method, and the loss that is left is shown beside the predicted collateral.

    Parameters
    ----------
    images
        The number of images that stand for everything.

    Raises
    ------
    SpecError
        The spec is wrong, or has no such edit.
    EditError
        The weights or the numbers are wrong.
    """
    session, number = open_at_edit(spec, edit, device, progress)
    layers = []
    for layer, found in measure_layers(session, number, images).items():
        layers.append(ComparedLayer(layer, found.shares, found.left, found.collateral))
    return CompareLayersResult(session.loaded.spec.edits[number].name, images, tuple(layers))


def _share_text(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
