"""The spec: its text, the way back, and its file."""

from __future__ import annotations

from fastapi import APIRouter

from editspec.studio.routers.shared import CurrentStudio
from editspec.studio.schemas import NewText, OnRevision, SaveRequest, State

router = APIRouter(prefix="/api")


@router.get("/spec")
def read_spec(studio: CurrentStudio) -> State:
    """Return the spec, its problems, its edits and their results."""
    return studio.state()


@router.put("/spec")
def write_spec(studio: CurrentStudio, body: NewText) -> State:
    """Replace the text of the spec.

    The text may be wrong; `problems` of the answer says where.
    """
    # A large text is read before anybody has to wait for it.
    studio.draft.prepare(body.text)
    return studio.rewrite(body.revision, lambda text: body.text)


@router.post("/undo")
def undo(studio: CurrentStudio, body: OnRevision) -> State:
    """Go back to the text before."""
    return studio.act(body.revision, studio.draft.undo)


@router.post("/redo")
def redo(studio: CurrentStudio, body: OnRevision) -> State:
    """Go on to the text that was undone."""
    return studio.act(body.revision, studio.draft.redo)


@router.post("/save")
def save(studio: CurrentStudio, body: SaveRequest) -> State:
    """Write the spec, with its masks as files."""
    studio.save(body.revision, overwrite=body.overwrite)
    return studio.tell_change()
