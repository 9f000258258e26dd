"""The rows of a table: ways to make an edit, and the images that each makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.worlds.skyline.bench.experiments import LAPLACE, UNMODIFIED
from editspec.worlds.skyline.bench.propagation import Example, feature_maps, propagate_edit
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.rendering import render_clamped

Draw = Callable[[Tensor, Tensor], Tensor]
"""Latents [n, d] and the unedited images of them [n, 3, 64, 64] -> the images of a row."""


@dataclass(frozen=True)
class Row:
    """One way to make an edit.

    Attributes
    ----------
    name
        Its key in `TITLES`.
    draw
        Draws its images.
    identity
        Plain values that the images depend on.
    seconds
        The time of the edit without its statistics. None for propagation, whose time for one
        image is measured later.
    settings
        Layer, rank and settings of the solver, for the report.
    """

    name: str
    draw: Draw
    identity: Any
    seconds: float | None
    settings: dict[str, Any] = field(default_factory=dict)


def build_identity(built: Sequence[BuiltEdit]) -> str:
    """Return the digest of a stack's last patch, which depends on all before it."""
    return str(built[-1].patch.metadata["content"])


def make_edited_row(
    name: str, model: StyleGAN2, built: Sequence[BuiltEdit], seconds: float | None
) -> Row:
    """Make the row of a model after a stack of edits."""
    rule = built[0].rule
    rank = {} if rule.rank is None else {"rank": rule.rank}
    settings = {"layer": rule.layer, **rank, **rule.method.as_json()}
    return Row(name, partial(_draw_edited, model), build_identity(built), seconds, settings)


def make_propagation_row(name: str, model: StyleGAN2, example: Example, built: BuiltEdit) -> Row:
    """Make the row of edit propagation from an example that `built` composited."""
    identity = [name, built.rule.provenance["edit"], built.rule.provenance["base"]]
    return Row(name, partial(_draw_propagated, model, example, name == LAPLACE), identity, None)


def make_unmodified_row() -> Row:
    """Make the row of the unedited model."""
    return Row(UNMODIFIED, _draw_unmodified, UNMODIFIED, 0.0)


# Functions of a module and not lambdas, as rows travel to other processes.


def _draw_edited(model: StyleGAN2, latents: Tensor, unedited: Tensor) -> Tensor:
    return render_clamped(model, latents)


def _draw_unmodified(latents: Tensor, unedited: Tensor) -> Tensor:
    return unedited


@torch.no_grad()
def _draw_propagated(
    model: StyleGAN2, example: Example, laplace: bool, latents: Tensor, unedited: Tensor
) -> Tensor:
    maps = feature_maps(model, latents)
    images = [
        propagate_edit(example, [each[item] for each in maps], image, laplace=laplace)
        for item, image in enumerate(unedited)
    ]
    return torch.stack(images)
