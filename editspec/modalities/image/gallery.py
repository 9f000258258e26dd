"""A sheet of the images of a latent stream, each with its number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.pictures import CELL, COLUMNS, GAP, enlarge, to_image
from editspec_compiler.modalities.image.schema import image_spec
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_images

LINE = 18
"""Pixels of the line with a number below an image."""

AT_ONCE = 16
"""Images that are drawn together."""


@on_device
def draw_gallery(session: BuildSession, numbers: Sequence[int], seed: int) -> Image.Image:
    """Draw the images of latents by their numbers, on the model as the session has it.

    `seed` names the stream; its sampler is that of the spec.
    """
    generator = generator_of(session)
    sampler = image_spec(session.loaded.spec).latents.sampler
    stream = LatentStream(seed, generator.architecture.latent_size, sampler)
    image_size = generator.architecture.image_size
    size = image_size * max(1, CELL // image_size)
    columns = min(COLUMNS, len(numbers))
    rows = math.ceil(len(numbers) / columns)
    extent = (GAP + columns * (size + GAP), GAP + rows * (size + LINE + GAP))
    sheet = Image.new("RGB", extent, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for start in range(0, len(numbers), AT_ONCE):
        session.progress("drawing", start, len(numbers))
        part = numbers[start : start + AT_ONCE]
        with torch.no_grad():
            images = render_images(generator, stream.items(part)).float().cpu()
        for index, image in enumerate(images, start=start):
            row, column = divmod(index, columns)
            left, top = GAP + column * (size + GAP), GAP + row * (size + LINE + GAP)
            sheet.paste(enlarge(to_image(image)), (left, top))
            place = (left + size // 2, top + size + LINE // 2)
            draw.text(place, str(numbers[index]), fill="black", font=font, anchor="mm")
    session.progress("drawing", len(numbers), len(numbers))
    return sheet
