"""Work in the background.

An endpoint that begins work answers at once, with the state.
"""

from __future__ import annotations

from fastapi import APIRouter

from editspec.studio.routers.shared import CurrentStudio, Number
from editspec.studio.schemas import OnRevision, SaveRequest, State

SEARCHED_IMAGES, FOUND_PLACES = 500, 12
"""Images that a search looks through, and places that it gives."""

router = APIRouter(prefix="/api")


@router.post("/edits/{number}/search", status_code=202)
def search(studio: CurrentStudio, number: Number) -> State:
    """Begin to look for places like the context of an edit."""
    studio.draft.edit(number)
    studio.images.search(number, SEARCHED_IMAGES, FOUND_PLACES)
    return studio.state()


@router.post("/edits/{number}/ask", status_code=202)
def ask(studio: CurrentStudio, number: Number) -> State:
    """Begin to ask the model about an edit, before the edits and after the executed ones."""
    studio.draft.held().edit(number)
    studio.engine.ask(number)
    return studio.state()


@router.post("/execute", status_code=202)
def execute(studio: CurrentStudio, body: OnRevision) -> State:
    """Begin to build the edits that are on, and to apply them."""
    studio.draft.prepare()
    with studio.draft.lock:
        studio.draft.require(body.revision)
    studio.engine.execute()
    return studio.tell_change()


@router.post("/results/{number}/curve", status_code=202)
def compute_curve(studio: CurrentStudio, number: Number) -> State:
    """Begin to compute the curve of an edit: loss against collateral."""
    studio.images.compute_curve(number)
    return studio.state()


@router.post("/results/{number}/traces", status_code=202)
def measure_traces(studio: CurrentStudio, number: Number) -> State:
    """Begin to measure what an edit changes where its key does not match."""
    studio.images.measure_traces(number)
    return studio.state()


@router.post("/edits/{number}/preserve", status_code=202)
def preserve(studio: CurrentStudio, number: Number, body: OnRevision) -> State:
    """Begin to choose images that an edit should leave alone, and to write them into it."""
    studio.draft.prepare()
    with studio.draft.lock:
        studio.draft.require(body.revision)
    studio.draft.edit(number)
    studio.images.preserve(number)
    return studio.state()


@router.post("/cancel")
def cancel(studio: CurrentStudio) -> State:
    """Cancel the work that is under way."""
    studio.jobs.cancel()
    return studio.state()


@router.post("/export", status_code=202)
def export(studio: CurrentStudio, body: SaveRequest) -> State:
    """Save, and begin to write the patches into build/NAME, as editspec build does."""
    studio.save(body.revision, overwrite=body.overwrite)
    studio.engine.export()
    return studio.tell_change()
