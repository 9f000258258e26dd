"""``editspec compare-layers``: how well layers tell selections from all else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.at_edit import open_at_edit
from editspec.engine.modality_registry import TracingModality
from editspec.engine.result import CommandResult
from editspec.modalities.image.explore import measure_layers
from editspec.modalities.image.pictures import picture_bytes, require_free_picture
from editspec.modalities.text.layers import CausalTraceResult
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write

IMAGES = 100
"""The usual number of images that stand for everything."""


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
    images: int | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CompareLayersResult | CausalTraceResult:
    """Compare how well the layers suit an edit.

    Of a generator, how well they tell the selections of the edit from all else. Selections are the
    source, the target and the entries of the context. A share is measured for each selection at
    each layer: the share of all positions of `images` images that have as much of a direction as
    the median key of the selection has. The direction is C^-1 k of the mean key k of the context;
    an entry of the context is measured with the other entries. The smaller the share, the better a
    rule at that layer tells the selection from all else.

    Layers of one weight have the same keys, and so the same shares. What the rule asks of them
    differs: at each layer the edit is solved by least squares with its default settings, whatever
    its own method, and the loss that is left is shown beside the predicted collateral.

    Of a language model, which of them hold the facts of the edit, by causal traces (Meng et al.
    2022): the embeddings of a subject are changed by noise of three times their standard deviation,
    so that the model answers something else, and the MLP of a layer (of large models with those
    around it) or the stream behind it is put back at one token. The more of the answer's
    probability comes back, the more of what is known passes there.

    Parameters
    ----------
    images
        The number of images that stand for everything; of generators alone. Default: 100.
    out
        A picture of the causal traces: .png, .jpg or .webp; of language models alone.

    Raises
    ------
    SpecError
        The spec is wrong, or has no such edit.
    UsageError
        An option is not for the family, or its layers cannot be told apart.
    EditError
        The weights or the numbers are wrong.
    """
    if out is not None:
        require_free_picture(Path(out))
    session, number = open_at_edit(spec, edit, device, progress)
    if isinstance(session.modality, TracingModality):
        if images is not None:
            raise UsageError(
                "--images is not for language models.",
                "Leave --images out: causal traces are of the edit's own prompts.",
            )
        traced = session.modality.trace_layers(session, number)
        if out is not None:
            write(Path(out), picture_bytes(traced.picture, Path(out)))
        return traced
    if out is not None:
        raise UsageError(
            "--out is a picture of causal traces, which are of language models.",
            "Leave --out out: the comparison is a table.",
        )
    count = IMAGES if images is None else images
    layers = []
    for layer, found in measure_layers(session, number, count).items():
        layers.append(ComparedLayer(layer, found.shares, found.left, found.collateral))
    return CompareLayersResult(session.loaded.spec.edits[number].name, count, tuple(layers))


def _share_text(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
