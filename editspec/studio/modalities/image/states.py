"""What the API says of the places of an edit of images."""

from __future__ import annotations

from pydantic import BaseModel


class PlaceState(BaseModel):
    """A source, a target, or a place of a context.

    Its image is given by number, or in words where it has none. Its mask is given by a digest of
    its text, empty where there is no mask.
    """

    latent: int | None
    words: str
    mask: str


class Match(BaseModel):
    """A place like those of a context: its image, its response, and a box in pixels."""

    latent: int
    score: float
    box: list[float]
