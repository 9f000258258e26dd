"""Images that the model draws."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter

from editspec.studio.refusals import Missing
from editspec.studio.routers.shared import (
    PICTURE,
    CurrentStudio,
    LatentNumber,
    Number,
    answer_png,
)
from editspec.studio.schemas import Paste

FOREVER = "private, max-age=31536000, immutable"
"""A generator's name is a digest of its weights and settings, so its images never change."""

router = APIRouter(prefix="/api")

GeneratorName = Annotated[
    str,
    PathParameter(pattern="^[0-9a-f]{16}$", description="The name of the generator that draws."),
]
Seed = Annotated[int, PathParameter(ge=0, lt=2**32)]


@router.get("/images/{name}/{seed}/{latent}", response_class=Response, responses=PICTURE)
def read_image(
    studio: CurrentStudio, name: GeneratorName, seed: Seed, latent: LatentNumber
) -> Response:
    """Draw an image of a stream by a generator."""
    png = studio.images.draw_image(name, seed, latent)
    if png is None:
        raise Missing(f"There is no generator {name} any more.")
    return answer_png(png, FOREVER)


@router.get("/answers/{name}", response_class=Response, responses=PICTURE)
def read_answer(studio: CurrentStudio, name: GeneratorName) -> Response:
    """Return a picture that a model has answered with."""
    png = studio.engine.answers.find(name)
    if not isinstance(png, bytes):
        raise Missing(f"There is no picture {name} any more.")
    return answer_png(png, FOREVER)


@router.post("/edits/{number}/composite", response_class=Response, responses=PICTURE)
def composite(studio: CurrentStudio, number: Number, body: Paste | None = None) -> Response:
    """Draw the target with the copied value pasted.

    The value is pasted where the spec has the target, or where the body says.
    """
    studio.draft.held().edit(number)
    changes = None
    if body is not None:
        source = studio.draft.held().place(number, "source")
        mask = studio.images.shift_mask(source.mask, body.right, body.down)
        changes = {"target": {"latent": body.latent, "mask": mask}}
    return answer_png(studio.images.draw_composite(number, changes))


@router.get("/edits/{number}/heat/{latent}", response_class=Response, responses=PICTURE)
def heat(studio: CurrentStudio, number: Number, latent: LatentNumber) -> Response:
    """Draw where the key of an edit's context responds in an image.

    A position that responds as much as the context itself is white.
    """
    studio.draft.held().edit(number)
    return answer_png(studio.images.draw_heat(number, latent), "no-store")
