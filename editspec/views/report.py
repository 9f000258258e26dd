"""The report of a build: plan, images, keys, losses, collateral and digests in one HTML file.

The file needs nothing beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.lock import removed_edits
from editspec.engine.model_session import on_device
from editspec.engine.plan import make_plan, predicted_collateral
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import context_direction, generator_of
from editspec.modalities.image.pictures import data_url, heat, to_image
from editspec.views.charts import FRAME, LossChart, draw_losses
from editspec.views.key_value import find_matches
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime import __version__
from editspec_runtime.errors import NumericalError
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images
from editspec_runtime.modalities.image.streams import REPORTS

SHOWN = 8
"""Images in a row."""

LARGEST = 192
"""Pixels that an image has at most, each way."""

PACKAGES = ("editspec", "torch", "numpy", "pillow")
"""The packages whose versions are told."""


@dataclass(frozen=True)
class Strip:
    """One row of images: its label, and each image as a data URL."""

    label: str
    images: list[str]


@dataclass(frozen=True)
class Pictures:
    """Rows of images below each other, with the same latents column by column.

    `size` is the width and height of an image.
    """

    latents: list[int]
    size: int
    strips: list[Strip]


@dataclass(frozen=True)
class EditSection:
    """The part of the report that is about one edit.

    Attributes
    ----------
    name, layer, parameters, rank, method, settings
        As the edit has them; `settings` are those of the solver, in words.
    loss, residual
        As they were measured.
    collateral, worst
        The predicted collateral by layer, and the largest of it.
    size
        Bytes of the patch.
    curve
        Losses over the steps of the solver, where it takes steps and they are in the cache.
    matched
        The images in which the key of the context matches best; None where there is no key.
    unseen
        Images of a stream that no edit has seen.
    digests
        By what they are of.
    """

    name: str
    layer: str
    parameters: list[str]
    rank: int | None
    method: str
    settings: str
    loss: float
    residual: float | None
    collateral: Mapping[str, Any]
    worst: float
    size: int
    curve: LossChart | None
    matched: Pictures | None
    unseen: Pictures
    digests: dict[str, str | None]


@on_device
def build_report(session: BuildSession, built: Sequence[BuiltEdit]) -> bytes:
    """Make the report of a build that has just been done, as HTML.

    The report of the same build of the same state has the same bytes.
    """
    again = session.again(built)
    first = generator_of(again)
    sampler = image_spec(session.loaded.spec).latents.sampler
    stream = LatentStream(REPORTS, first.architecture.latent_size, sampler)
    sections, before = [], first
    for number, edit in enumerate(built):
        again.edit(number)
        after = generator_of(again)
        sections.append(_describe_edit(session, number, edit, before, after, stream))
        before = after
    content = {
        "version": __version__,
        "name": session.loaded.path.name,
        "facts": _list_facts(session, built, first),
        "edits": sections,
        "plan": list(zip(session.steps, sections, strict=True)),
        "removed": removed_edits(session.loaded, session.lock),
        "conflicts": make_plan(session.again(built)).conflicts,
        "whole": _compare_images(first, before, stream) if len(built) > 1 else None,
        "chart": FRAME,
        "base": session.base,
        "result": built[-1].patch.metadata["result"],
    }
    page = _make_environment().get_template("build.html").render(content)
    return (page.rstrip("\n") + "\n").encode()


def _make_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("editspec.views"),
        # Names of layers, masks and specs may be anything, HTML included.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _format_number, "bytes": _format_bytes}
    return environment


def _list_facts(
    session: BuildSession, built: Sequence[BuiltEdit], generator: Generator
) -> dict[str, str]:
    """List what is true of the whole build."""
    spec, architecture = image_spec(session.loaded.spec), generator.architecture
    size, layers = architecture.image_size, len(architecture.layers)
    environment = built[-1].locked.environment
    statistics = spec.statistics
    return {
        "Model": f"{spec.model.family}, {size} × {size} pixels, {layers} layers",
        "Latents": f"stream {spec.latents.seed} ({spec.latents.sampler})",
        "Second moments": f"{statistics.samples} images of stream {statistics.seed}",
        "Precision": spec.precision,
        "Built with": ", ".join(f"{name} {environment[name]}" for name in PACKAGES),
        "Device": f"{environment['device']}, {environment['threads']} threads",
    }


def _describe_edit(
    session: BuildSession,
    number: int,
    edit: BuiltEdit,
    before: Generator,
    after: Generator,
    stream: LatentStream,
) -> EditSection:
    metadata, rule = edit.patch.metadata, edit.rule
    solver = dict(metadata["solver"])
    method = solver.pop("method")
    return EditSection(
        name=rule.name,
        layer=rule.layer,
        parameters=list(edit.patch.parameters),
        rank=metadata["rank"],
        method=method,
        settings=", ".join(f"{name} {json.dumps(value)}" for name, value in solver.items()),
        loss=edit.loss,
        residual=edit.residual,
        collateral=metadata["collateral"],
        worst=predicted_collateral(edit.patch),
        size=len(edit.patch.to_bytes()),
        curve=draw_losses(session.losses(rule, before)),
        matched=_find_matches(session, number, before, after, stream),
        unseen=_compare_images(before, after, stream),
        digests={
            "edit": metadata["edit"],
            "weights before": metadata["parent"],
            "rule file": edit.locked.rule,
            "second moment": edit.locked.second_moment,
            "patch": metadata["content"],
            "weights after": metadata["result"],
        },
    )


@torch.no_grad()
def _compare_images(before: Generator, after: Generator, stream: LatentStream) -> Pictures:
    """Draw the first images of a stream before and after."""
    numbers = list(range(SHOWN))
    latents = before.to_model(stream.items(numbers))
    rows = {"before": render_images(before, latents), "after": render_images(after, latents)}
    return _arrange(numbers, rows)


@torch.no_grad()
def _find_matches(
    session: BuildSession, number: int, before: Generator, after: Generator, stream: LatentStream
) -> Pictures | None:
    """Draw the images in which the key of an edit's context matches best, and where it does.

    None where the edit has no key.
    """
    layer = session.loaded.spec.edits[number].layer
    try:
        direction = context_direction(session, number, before)
    except (NumericalError, SpecError):
        # A method that needs no keys was built all the same.
        return None
    images, light, numbers = find_matches(
        before, layer, direction, stream, SHOWN, session.compatibility
    )
    latents = stream.items(numbers).to(direction)
    rows = {"before": images, "key": heat(images, light), "after": render_images(after, latents)}
    return _arrange(numbers, rows)


def _arrange(numbers: list[int], rows: Mapping[str, Tensor]) -> Pictures:
    """Arrange rows of images [n, 3, height, width] in -1..1, by their labels."""
    strips = [Strip(label, _encode_images(images)) for label, images in rows.items()]
    sizes = [images.shape[-1] for images in rows.values()]
    return Pictures(numbers, min(LARGEST, *sizes), strips)


def _encode_images(images: Tensor) -> list[str]:
    """Encode images [n, 3, height, width] in -1..1 as data URLs, reduced to `LARGEST` pixels."""
    urls = []
    for image in images.float().cpu():
        picture = to_image(image)
        if picture.width > LARGEST:
            picture = picture.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        urls.append(data_url(picture))
    return urls


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _format_bytes(count: int) -> str:
    return f"{count / 1000:.0f} kB" if count < 10**6 else f"{count / 10**6:.1f} MB"
