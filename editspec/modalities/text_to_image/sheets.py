"""Sheets of the pictures of prompts, before and after the edits of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import CELL, GAP, MARGIN, to_image
from editspec.modalities.image.report import Pictures as Strips
from editspec.modalities.image.report import TracePictures, arrange_rows
from editspec.modalities.text_to_image.drawing import Pictures, pictures_of
from editspec_compiler.modalities.text_to_image.schema import PromptSpec, prompt_spec
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError

LINE = 22
"""Pixels of the line with a prompt."""

LARGEST = 256
"""The largest width of a picture on a sheet."""

MOST_COLUMNS = 8

SHOWN = 4
"""The number of prompts of an edit that a report shows."""


def list_prompts(spec: PromptSpec) -> list[str]:
    """List the prompts that are drawn: those that the spec names, or else those of its edits."""
    if spec.pictures.prompts is not None:
        return list(spec.pictures.prompts)
    found: dict[str, None] = {}
    for edit in spec.edits:
        found |= dict.fromkeys(side.target.prompt for side in edit.sides)
        found |= dict.fromkeys(each.prompt for each in edit.context or ())
    for edit in spec.edits:
        found |= dict.fromkeys(each.prompt for each in edit.preserve or () if each.prompt)
    return list(found)


@on_device
def draw_prompts(session: BuildSession, count: int, seed: int) -> Image.Image:
    """Draw the prompts of a spec before and after its edits, `count` pictures in all.

    Of a spec without edits, its prompts are drawn once. Nothing may have been built in the session
    yet. Raises `UsageError` where no prompt is named.
    """
    spec = prompt_spec(session.loaded.spec)
    prompts = list_prompts(spec)[:count]
    if not prompts:
        raise UsageError(
            "The spec names no prompt to draw.", "Write pictures: {prompts: […]} into it."
        )
    each = max(1, min(MOST_COLUMNS, count // len(prompts)))
    texts = [prompt for prompt in prompts for _ in range(each)]
    seeds = [seed + column for _ in prompts for column in range(each)]
    pictures = pictures_of(session)

    def draw(label: str) -> Tensor:
        weights = session.current_model().weights
        return pictures.draw(
            weights, texts, seeds, lambda done, total: session.progress(label, done, total)
        )

    rows = {"before": draw("drawing before")}
    for number in range(len(spec.edits)):
        session.edit(number)
    if spec.edits:
        rows["after"] = draw("drawing after")
    return arrange_prompts(prompts, rows, each)


def arrange_prompts(prompts: Sequence[str], rows: dict[str, Tensor], each: int) -> Image.Image:
    """Arrange pictures of prompts, `each` as many of a prompt: a line of text, and rows below."""
    width = next(iter(rows.values())).shape[-1]
    size = min(LARGEST, width * max(1, CELL // width))
    block = LINE + len(rows) * (size + GAP) + GAP
    extent = (max(MARGIN + each * (size + GAP), 480), GAP + len(prompts) * block)
    sheet = Image.new("RGB", extent, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, prompt in enumerate(prompts):
        top = GAP + index * block
        draw.text((MARGIN, top + LINE // 2), prompt, fill="black", font=font, anchor="lm")
        for row, (label, images) in enumerate(rows.items()):
            y = top + LINE + row * (size + GAP)
            draw.text((MARGIN - GAP, y + size // 2), label, fill="black", font=font, anchor="rm")
            for column, image in enumerate(images[index * each : (index + 1) * each]):
                tile = to_image(image)
                method = Image.Resampling.NEAREST if size >= width else Image.Resampling.LANCZOS
                place = (MARGIN + column * (size + GAP), y)
                sheet.paste(tile.resize((size, size), method), place)
    return sheet


@dataclass(frozen=True)
class PromptPictures:
    """The pictures of a report: the first prompts of the spec before and after edits."""

    session: BuildSession

    @cached_property
    def pictures(self) -> Pictures:
        """The pipeline of the model."""
        return pictures_of(self.session)

    @property
    def facts(self) -> dict[str, str]:
        """The facts of the model and of its pictures by their labels."""
        spec = prompt_spec(self.session.loaded.spec)
        architecture = self.session.current_model().architecture
        how = spec.pictures
        return {
            "Model": f"{spec.model.family}, {len(architecture.layers)} layers that read the text",
            "Pictures": f"{how.steps} steps, guidance {how.guidance:g}, seed 0",
            "Second moments": spec.statistics.prompts or "a ridge, and the empty prompt",
        }

    def compare(self, before: Model, after: Model) -> Strips:
        """Draw the first prompts of the spec before and after edits."""
        prompts = list_prompts(prompt_spec(self.session.loaded.spec))[:SHOWN]
        seeds = list(range(len(prompts)))
        rows = {
            "before": self.pictures.draw(before.weights, prompts, seeds),
            "after": self.pictures.draw(after.weights, prompts, seeds),
        }
        return arrange_rows(prompts, rows)

    def find_matches(self, number: int, before: Model, after: Model) -> Strips | None:
        """Return None: a key is a token of a prompt, and lies in no place of a picture."""

    def find_traces(self, number: int, before: Model, after: Model) -> TracePictures | None:
        """Return None, as `find_matches` does."""
