"""``editspec compare-layers``: how well each layer tells selections from everything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import CommandResult
from editspec.modalities.image.explore import measure_shares, open_at_edit
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class ComparedLayer:
    """One layer.

    Attributes
    ----------
    layer
        Its name.
    shares
        Of each selection the share of all positions that have as much of the direction; None where
        the layer cannot say.
    """

    layer: str
    shares: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """The layer and its shares side by side."""
        return {"layer": self.layer, **self.shares}


@dataclass(frozen=True)
class CompareLayersResult(CommandResult):
    """All layers of a model; `images` stood for everything."""

    edit: str
    images: int
    layers: tuple[ComparedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """The layers as plain values."""
        layers = [layer.to_dict() for layer in self.layers]
        return {"edit": self.edit, "images": self.images, "layers": layers}

    def to_text(self) -> str:
        """The layers as a table."""
        table = [["layer", *self.layers[0].shares]]
        table += [[layer.layer, *map(_share_text, layer.shares.values())] for layer in self.layers]
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
    """Compare how well the layers tell the selections of an edit from everything else.

    For each selection (source, target, context) and each layer: the share of all positions of
    `images` images that have as much of the direction as the median key of the selection has. The
    direction is C^-1 k of the mean key of the context; of a context entry, that of the others. The
    smaller the share, the better a rule of that layer can be held apart.

    Raises
    ------
    SpecError, EditError
        As `build` does.
    """
    session, number = open_at_edit(spec, edit, device, progress)
    shares = measure_shares(session, number, images)
    layers = tuple(ComparedLayer(layer, found) for layer, found in shares.items())
    return CompareLayersResult(session.loaded.spec.edits[number].name, images, layers)


def _share_text(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
