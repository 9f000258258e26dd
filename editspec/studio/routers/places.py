"""The places of an edit: what is copied, where it is pasted, and its context."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from editspec.modalities.image.pictures import encode_png
from editspec.studio import spec_editor
from editspec.studio.modalities.image.modality import digest_mask
from editspec.studio.refusals import Missing
from editspec.studio.routers.shared import (
    PICTURE,
    CurrentStudio,
    Index,
    Number,
    Revision,
    Role,
    Studio,
    answer_png,
)
from editspec.studio.schemas import PasteChange, PlaceChange, State
from editspec.studio.yaml_blocks import Item
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.schema import BoxMask
from editspec_runtime.errors import UsageError

MaskDigest = Annotated[
    str | None, Query(max_length=64, description="The digest that the state gives the mask.")
]

router = APIRouter(prefix="/api/edits/{number}")


@router.put("/places/{role}")
def put_place(studio: CurrentStudio, number: Number, role: Role, body: PlaceChange) -> State:
    """Set the source or the target, or a place of the context.

    Without an index, the context gets one more place. A context that is begun keeps the target,
    which was the context before.
    """
    if isinstance(body.mask, str) and body.mask.startswith("data:"):
        # Decoded before anybody has to wait for it; then it is found in a cache.
        mask_image(body.mask, studio.draft.folder, 0, legacy=False)

    def rewrite_text(text: str) -> str:
        studio.draft.edit(number)
        place = {"latent": body.latent, "mask": _write_mask(studio, body)}
        return _put_place(studio, text, number, role, body.index, place)

    return studio.rewrite(body.revision, rewrite_text)


@router.delete("/places/{role}")
def remove_place(
    studio: CurrentStudio, number: Number, role: Role, revision: Revision, index: Index = 0
) -> State:
    """Remove the source or the target, or a place of the context."""
    draft = studio.draft

    def change(item: Item) -> None:
        spec_editor.remove_place(item, role, index)

    def rewrite_text(text: str) -> str:
        draft.place(number, role, index)
        return spec_editor.change_edit(text, draft.file, number, change)

    return studio.rewrite(revision, rewrite_text)


@router.post("/paste")
def paste(studio: CurrentStudio, number: Number, body: PasteChange) -> State:
    """Put the target where the copied value was dragged to."""

    def rewrite_text(text: str) -> str:
        source = studio.draft.place(number, "source")
        shifted = studio.images.shift_mask(source.mask, body.right, body.down)
        mask = studio.draft.add_mask(shifted)
        place = {"latent": body.latent, "mask": mask}
        return _put_place(studio, text, number, "target", None, place)

    return studio.rewrite(body.revision, rewrite_text)


@router.get("/masks/{role}", response_class=Response, responses=PICTURE)
def read_mask(
    studio: CurrentStudio, number: Number, role: Role, index: Index = 0, mask: MaskDigest = None
) -> Response:
    """Draw a mask of any kind as grey pixels of the model's images.

    The text may have changed since the page has read it: another mask than it asks for is refused.
    """
    draft = studio.draft.held()
    place = draft.place(number, role, index)
    if mask is not None and mask != digest_mask(draft.shown_edit(number), role, index):
        raise Missing(f"Edit {number} has another mask by now.")
    image = studio.images.draw_mask(place.mask)
    return answer_png(encode_png(image), "no-store")


@router.get("/scenes/{role}", response_class=Response, responses=PICTURE)
def read_scene(studio: CurrentStudio, number: Number, role: Role, index: Index = 0) -> Response:
    """Draw the image of a place whose latent is not a number of the stream."""
    place = studio.draft.held().place(number, role, index)
    return answer_png(studio.images.draw_scene(number, place.latent))


def _write_mask(studio: Studio, body: PlaceChange) -> Any:
    """Return a mask for the spec: a box, or the name of the file that is written."""
    if isinstance(body.mask, BoxMask):
        plain: dict[str, list[float]] = body.mask.model_dump()
        return {name: list(map(_shorten, numbers)) for name, numbers in plain.items()}
    if not body.mask.startswith("data:"):
        raise UsageError(
            "The mask is neither a box nor a data URL.",
            "Send a painted mask as a data URL of a PNG.",
        )
    return studio.draft.add_mask(body.mask)


def _shorten(edge: float) -> float:
    """Return an integer for a whole number, which is written without a point."""
    return int(edge) if edge.is_integer() else edge


def _put_place(
    studio: Studio, text: str, number: int, role: str, index: int | None, place: dict[str, Any]
) -> str:
    def change(item: Item) -> None:
        spec_editor.put_place(item, role, index, place)

    return spec_editor.change_edit(text, studio.draft.file, number, change)
