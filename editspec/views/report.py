"""One page that shows a build: plan, images, keys, losses, collateral, digests; a file that needs
nothing beside it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from editspec.commands.plan import planned
from editspec.engine.lock import removed
from editspec.engine.session import BuildSession, BuiltEdit, context_direction
from editspec.modalities.image.pictures import heat, to_image
from editspec.views.key_value import matches
from editspec_compiler import SpecError
from editspec_runtime import __version__
from editspec_runtime.errors import NumericalError
from editspec_runtime.methods.baselines import drawn
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

UNSEEN = 3
"""The latent stream that images are shown of: no spec takes its statistics from it."""

SHOWN = 8
"""Images in a row."""

LARGEST = 192
"""Pixels that an image has at most, each way."""

POINTS = 400
"""Points that a curve has at most."""


@dataclass(frozen=True)
class Strip:
    """One row of images: what they show, and each as a data URL."""

    label: str
    images: list[str]


@dataclass(frozen=True)
class Pictures:
    """Rows of images below each other, column by column the same latents; `size` is their width and
    height.
    """

    latents: list[int]
    size: int
    strips: list[Strip]


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in the units of the drawing, and the number there."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """Losses over steps, as a drawing of `WIDTH` x `HEIGHT` units."""

    points: str
    steps: list[Tick]
    losses: list[Tick]
    last: tuple[float, float]
    summary: str


WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 40


def build_page(session: BuildSession, built: Sequence[BuiltEdit]) -> bytes:
    """The page of a build that has just been done, as HTML. The same build of the same state gives
    the same bytes.
    """
    again = session.again(built)
    spec, architecture = session.loaded.spec, again.generator().architecture
    stream = LatentStream(UNSEEN, architecture.latent_size, spec.latents.sampler)
    sections, before = [], again.generator()
    first = before
    for number, edit in enumerate(built):
        again.edit(number)
        after = again.generator()
        sections.append(_section(session, number, edit, before, after, stream))
        before = after
    content = {
        "version": __version__,
        "name": session.loaded.path.name,
        "facts": _facts(session, built, first),
        "edits": sections,
        "plan": [(step, edit) for step, edit in zip(session.steps, sections, strict=True)],
        "removed": removed(session.loaded, session.lock),
        "conflicts": planned(session.again(built))["conflicts"],
        "whole": _compared(first, before, stream, range(SHOWN)) if len(built) > 1 else None,
        "chart": {
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "bottom": HEIGHT - BOTTOM,
        },
        "base": session.base,
        "result": built[-1].patch.metadata["result"],
    }
    return (_environment().get_template("build.html").render(content).rstrip("\n") + "\n").encode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("editspec.views"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "bytes": _bytes}
    return environment


def _facts(
    session: BuildSession, built: Sequence[BuiltEdit], generator: Generator
) -> dict[str, str]:
    """What is true of the whole build."""
    spec, architecture = session.loaded.spec, generator.architecture
    environment = built[-1].locked.environment
    versions = ("editspec", "torch", "numpy", "pillow")
    return {
        "Model": f"{spec.model.family}, {architecture.image_size} × {architecture.image_size} pixels, {len(architecture.layers)} layers",
        "Latents": f"stream {spec.latents.seed} ({spec.latents.sampler})",
        "Second moments": f"{spec.statistics.samples} images of stream {spec.statistics.seed}",
        "Precision": spec.precision,
        "Built with": ", ".join(f"{name} {environment[name]}" for name in versions),
        "Device": f"{environment['device']}, {environment['threads']} threads",
    }


def _section(
    session: BuildSession,
    number: int,
    edit: BuiltEdit,
    before: Generator,
    after: Generator,
    stream: LatentStream,
) -> dict[str, Any]:
    """All that is shown of one edit."""
    metadata, rule = edit.patch.metadata, edit.rule
    settings = [
        f"{name} {json.dumps(value)}"
        for name, value in metadata["solver"].items()
        if name != "method"
    ]
    return {
        "name": rule.edit,
        "layer": rule.layer,
        "parameters": edit.patch.parameters,
        "rank": metadata["rank"],
        "method": metadata["solver"]["method"],
        "settings": ", ".join(settings),
        "loss": edit.loss,
        "residual": edit.residual,
        "collateral": metadata["collateral"],
        "worst": max(
            (layer["correlated"] for layer in metadata["collateral"].values()), default=0.0
        ),
        "size": len(edit.patch.to_bytes()),
        "curve": _curve(session.losses(rule, before)),
        "matched": _matched(session, number, before, after, stream),
        "unseen": _compared(before, after, stream, range(SHOWN)),
        "digests": {
            "edit": metadata["edit"],
            "weights before": metadata["parent"],
            "rule file": edit.locked.rule,
            "second moment": edit.locked.second_moment,
            "patch": metadata["content"],
            "weights after": metadata["result"],
        },
    }


@torch.no_grad()
def _compared(
    before: Generator, after: Generator, stream: LatentStream, numbers: range
) -> Pictures:
    """Images of a stream before and after."""
    latents = before.fitted(stream.items(numbers))
    size, strips = 0, []
    for label, generator in (("before", before), ("after", after)):
        urls, size = _urls(drawn(generator, latents))
        strips.append(Strip(label, urls))
    return Pictures(list(numbers), size, strips)


@torch.no_grad()
def _matched(
    session: BuildSession, number: int, before: Generator, after: Generator, stream: LatentStream
) -> Pictures | None:
    """The images in which the key of an edit's context matches best, where it does, and what
    becomes of them.
    """
    layer = session.loaded.spec.edits[number].layer
    try:
        direction = context_direction(session, number, before)
    except (NumericalError, SpecError):  # a method that needs no keys was built all the same
        return None
    images, light, numbers = matches(before, layer, direction, stream, SHOWN, session.conventions)
    latents = stream.items(numbers).to(direction)
    rows = {"before": images, "key": heat(images, light), "after": drawn(after, latents)}
    size, strips = 0, []
    for label, row in rows.items():
        urls, size = _urls(row)
        strips.append(Strip(label, urls))
    return Pictures(numbers, size, strips)


def _urls(images: Tensor) -> tuple[list[str], int]:
    """Images [n, 3, size, size] in -1..1 as data URLs, and their width and height."""
    urls, size = [], min(LARGEST, images.shape[-1])
    for image in images.float().cpu():
        picture = to_image(image)
        if picture.width > size:
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        urls.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return urls, size


def _curve(losses: Sequence[tuple[int, float]]) -> Curve | None:
    """Losses over steps as a drawing; None where there are fewer than two."""
    if len(losses) < 2:
        return None
    stride = -(-len(losses) // POINTS)
    shown = [*losses[:-1:stride], losses[-1]]
    step_ticks, loss_ticks = _ticks(losses[-1][0]), _ticks(max(loss for _, loss in losses))
    top = float(loss_ticks[-1])

    def across(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / losses[-1][0], 1)

    def down(loss: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top, 1)

    best = min(losses, key=lambda point: point[1])
    return Curve(
        " ".join(f"{across(step):g},{down(loss):g}" for step, loss in shown),
        [Tick(across(float(text)), text) for text in step_ticks if float(text) <= losses[-1][0]],
        [Tick(down(float(text)), text) for text in loss_ticks],
        (across(best[0]), down(best[1])),
        f"From {losses[0][1]:.3g} at step {losses[0][0]} to {best[1]:.3g} at step {best[0]}, the lowest of "
        f"{losses[-1][0]} steps.",
    )


def _ticks(largest: float) -> list[str]:
    """Round numbers from 0 to at least `largest`, up to ten of them, with as many decimals as they
    need.
    """
    if largest <= 0:
        return ["0", "1"]
    power = 10.0 ** floor(log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if largest <= 8 * power * factor)
    decimals = max(0, -floor(log10(step)))
    return [f"{step * number:.{decimals}f}" for number in range(ceil(largest / step - 1e-9) + 1)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _bytes(count: int) -> str:
    return f"{count / 1000:.0f} kB" if count < 10**6 else f"{count / 10**6:.1f} MB"
