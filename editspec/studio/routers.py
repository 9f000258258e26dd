"""The API of the studio, and its page. Every change names the revision that it was made on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from editspec.studio.draft import Conflict, Draft, png, usual
from editspec.studio.engine import Engine
from editspec.studio.jobs import Busy, Jobs
from editspec.studio.schemas import (
    EditChange,
    Failure,
    FoundProblem,
    NewText,
    OnRevision,
    Paste,
    PasteChange,
    PlaceChange,
    SaveRequest,
    State,
    problems_found,
    state_of,
)
from editspec.studio.spec_editor import added, changed, in_flow, moved, put, removed, switched
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.masks import MaskError
from editspec_compiler.schema import Box, Place, fitting
from editspec_runtime.errors import EditError, UsageError

STATIC = Path(__file__).parent / "static"
SEARCHED, FOUND = 500, 12
"""Images that a search looks through, and places that it gives."""

Number = Annotated[
    int, PathParameter(ge=0, lt=10_000, description="Of all edits, on or off, in their order.")
]
Role = Annotated[
    Literal["source", "target", "context"], PathParameter(description="Copy, Paste or Context.")
]
Index = Annotated[int, Query(ge=0, lt=10_000, description="Of the places of a context.")]
Revision = Annotated[int, Query(ge=0, description="The revision that the change was made on.")]

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "No token, or a wrong one."},
    403: {"model": Failure, "description": "From another page, or under a foreign name."},
    404: {"model": Failure, "description": "There is no such edit, place or generator."},
    409: {
        "model": Failure,
        "description": "The spec was changed elsewhere, or other work is under way.",
    },
    413: {"model": Failure, "description": "Too large."},
    422: {"model": Failure, "description": "The spec, or what was sent, is wrong."},
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "A PNG."}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events."}
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


class Missing(Exception):
    """There is no such edit, place or generator."""


def make_app(draft: Draft, engine: Engine, jobs: Jobs) -> FastAPI:
    """The application around a session; it still has to be guarded."""
    listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def hear(event: dict[str, Any]) -> None:
            for queue in list(listeners):
                loop.call_soon_threadsafe(queue.put_nowait, event)

        jobs.listeners.append(hear)
        if draft.executed:
            # The solutions are in the cache: what was executed before the server was stopped is
            # soon there again.
            await asyncio.to_thread(_again, engine)
        yield
        jobs.listeners.remove(hear)
        jobs.cancel()

    app = FastAPI(
        title="editspec studio",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        responses=REFUSALS,
    )
    _answer_errors(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    def state() -> State:
        with draft.lock:
            return state_of(draft, engine, jobs)

    def on(revision: int, act: Callable[[], None]) -> State:
        with draft.lock:
            draft.require(revision)
            act()
        return told()

    def change(revision: int, new_text: Callable[[str], str]) -> State:
        return on(revision, lambda: draft.change(new_text(draft.text)))

    def told() -> State:
        jobs.tell({"event": "changed", "revision": draft.revision})
        return state()

    def edit_at(number: int) -> dict[str, Any]:
        edits = draft.edits()
        if number >= len(edits) or not isinstance(edits[number], dict):
            raise Missing(f"There is no edit {number}.")
        found: dict[str, Any] = edits[number]
        return found

    def place_at(number: int, role: str, index: int) -> Place:
        given = edit_at(number).get(role)
        document = draft.document()
        if outside := draft.bounds.problems(document):
            raise SpecError(document.file, outside, document.text)
        if role == "context":
            given = given[index] if isinstance(given, list) and index < len(given) else None
        kept = (
            {name: given[name] for name in ("latent", "mask") if name in given}
            if isinstance(given, dict)
            else {}
        )
        place: Place | None = fitting(Place, kept)
        if place is None:
            raise Missing(f"Edit {number} has no {role} with a mask here.")
        return place

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-store"})

    @app.get("/api/spec")
    def read_spec() -> State:
        """The spec, what is wrong with it, its edits, and what was made of them."""
        return state()

    @app.put("/api/spec")
    def write_spec(body: NewText) -> State:
        """Make another text the spec. It may be wrong: `problems` then says where."""
        return change(body.revision, lambda text: body.text)

    @app.post("/api/undo")
    def undo(body: OnRevision) -> State:
        """Go back to the text before."""
        return on(body.revision, draft.undo)

    @app.post("/api/redo")
    def redo(body: OnRevision) -> State:
        """Go on to the text that was undone."""
        return on(body.revision, draft.redo)

    @app.post("/api/edits")
    def add_edit(body: OnRevision) -> State:
        """Add an edit at the end, like the one before it."""
        edits = draft.edits()
        names = {edit.get("name") for edit in edits if isinstance(edit, dict)}
        name = next(name for n in range(1, len(edits) + 2) if (name := f"edit-{n}") not in names)
        layer, solver = usual(engine.base().generator.architecture)
        item: dict[str, Any] = {"name": name, "layer": layer, "rank": 4, "solver": solver}
        if edits and isinstance(edits[-1], dict):
            item |= {key: edits[-1][key] for key in ("layer", "rank", "solver") if key in edits[-1]}
        return change(body.revision, lambda text: added(text, draft.file, item))

    @app.patch("/api/edits/{number}")
    def change_edit(number: Number, body: EditChange) -> State:
        """Rename an edit, give it another layer, rank or solver, switch it off or on, or move
        it.
        """
        fields = {key: getattr(body, key) for key in ("name", "layer", "rank", "solver")}

        def new_text(text: str) -> str:
            edit_at(number)
            given = {key: value for key, value in fields.items() if value is not None}
            if given:
                text = changed(text, draft.file, number, lambda item: _put_all(item, given))
            if body.off is not None and body.off != draft.is_off(number):
                text = switched(text, draft.file, number, off=body.off)
            if body.position is not None:
                text = moved(text, draft.file, number, min(body.position, len(draft.edits()) - 1))
            return text

        return change(body.revision, new_text)

    @app.delete("/api/edits/{number}")
    def remove_edit(number: Number, revision: Revision) -> State:
        """Remove an edit from the spec."""

        def new_text(text: str) -> str:
            edit_at(number)
            return removed(text, draft.file, number)

        return change(revision, new_text)

    @app.put("/api/edits/{number}/places/{role}")
    def put_place(number: Number, role: Role, body: PlaceChange) -> State:
        """Set the source or the target, or a place of the context (one more, without an index)."""

        def new_text(text: str) -> str:
            edit_at(number)
            if isinstance(body.mask, Box):
                mask: Any = {
                    "box": [int(edge) if edge.is_integer() else edge for edge in body.mask.box]
                }
            elif body.mask.startswith("data:"):
                mask = draft.add_mask(body.mask, body.latent)
            else:
                raise UsageError("A painted mask is a data URL of a PNG.")
            place = {"latent": body.latent, "mask": mask}
            return changed(
                text, draft.file, number, lambda item: _set_place(item, role, body.index, place)
            )

        return change(body.revision, new_text)

    @app.delete("/api/edits/{number}/places/{role}")
    def remove_place(number: Number, role: Role, revision: Revision, index: Index = 0) -> State:
        """Remove the source or the target, or a place of the context."""

        def new_text(text: str) -> str:
            place_at(number, role, index)
            return changed(text, draft.file, number, lambda item: _drop_place(item, role, index))

        return change(revision, new_text)

    @app.post("/api/edits/{number}/paste")
    def paste(number: Number, body: PasteChange) -> State:
        """Put the target where the copied value was dragged to."""

        def new_text(text: str) -> str:
            source = place_at(number, "source", 0)
            mask = draft.add_mask(engine.shifted(source.mask, body.right, body.down), body.latent)
            place = {"latent": body.latent, "mask": mask}
            return changed(
                text, draft.file, number, lambda item: _set_place(item, "target", None, place)
            )

        return change(body.revision, new_text)

    @app.post("/api/edits/{number}/composite", response_class=Response, responses=PICTURE)
    def composite(number: Number, body: Paste | None = None) -> Response:
        """The target with the copied value pasted, drawn by the rest of the model: as the spec has
        it, or elsewhere.
        """
        edit_at(number)
        changes = None
        if body is not None:
            mask = engine.shifted(place_at(number, "source", 0).mask, body.right, body.down)
            changes = {"target": {"latent": body.latent, "mask": mask}}
        return Response(engine.composite(number, changes), media_type="image/png")

    @app.get("/api/edits/{number}/masks/{role}", response_class=Response, responses=PICTURE)
    def read_mask(number: Number, role: Role, index: Index = 0) -> Response:
        """A mask as grey pixels of the model's images, whatever it is in the spec."""
        image = engine.pixels(place_at(number, role, index).mask)
        return Response(png(image), media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.get("/api/edits/{number}/scenes/{role}", response_class=Response, responses=PICTURE)
    def read_scene(number: Number, role: Role, index: Index = 0) -> Response:
        """The image of a place whose latent is no number of the stream."""
        latent = place_at(number, role, index).latent
        base = engine.base()
        if isinstance(latent, int):
            return Response(
                engine.image(base.name, base.latents.seed, latent), media_type="image/png"
            )
        loaded = draft.load_alone(number)
        vector = loaded.latent_vector(latent, ("edits", 0), base.generator.architecture.latent_size)
        return Response(engine.scene(vector), media_type="image/png")

    @app.get("/api/images/{name}/{seed}/{latent}", response_class=Response, responses=PICTURE)
    def read_image(
        name: Annotated[
            str, PathParameter(pattern="^[0-9a-f]{16}$", description="Of the generator that draws.")
        ],
        seed: Annotated[int, PathParameter(ge=0, lt=2**32)],
        latent: Annotated[int, PathParameter(ge=0, lt=2**63)],
    ) -> Response:
        """An image of a stream, as a generator draws it."""
        drawn = engine.image(name, seed, latent)
        if drawn is None:
            raise Missing(f"There is no generator {name} any more.")
        return Response(drawn, media_type="image/png", headers=FOREVER)

    @app.get("/api/edits/{number}/heat/{latent}", response_class=Response, responses=PICTURE)
    def heat(number: Number, latent: Annotated[int, PathParameter(ge=0, lt=2**63)]) -> Response:
        """Where the key of an edit's context responds in an image: white as much as in the context
        itself.
        """
        edit_at(number)
        return Response(
            engine.heat(number, latent),
            media_type="image/png",
            headers={"Cache-Control": "no-store"},
        )

    @app.post("/api/edits/{number}/search", status_code=202)
    def search(number: Number) -> State:
        """Begin to look for places like the context of an edit."""
        edit_at(number)
        engine.search(number, SEARCHED, FOUND)
        return state()

    @app.post("/api/execute", status_code=202)
    def execute(body: OnRevision) -> State:
        """Begin to build the edits that are on, and to apply them."""
        return on(body.revision, engine.execute)

    @app.post("/api/results/{number}/curve", status_code=202)
    def compute_curve(number: Number) -> State:
        """Begin to compute the curve of loss against collateral of an edit that was executed."""
        engine.curve(number)
        return state()

    @app.post("/api/cancel")
    def cancel() -> State:
        """Have the work that is under way stop."""
        jobs.cancel()
        return state()

    @app.post("/api/save")
    def save(body: SaveRequest) -> State:
        """Write the spec, with its masks as files."""
        return on(body.revision, lambda: draft.save(overwrite=body.overwrite))

    @app.post("/api/export", status_code=202)
    def export(body: SaveRequest) -> State:
        """Save, and begin to write the patches into build/NAME, as editspec build does."""

        def act() -> None:
            draft.save(overwrite=body.overwrite)
            engine.export()

        return on(body.revision, act)

    @app.get("/api/events", response_class=StreamingResponse, responses=EVENTS)
    async def events(request: Request) -> StreamingResponse:
        """What happens, as it happens: changes of the spec, and the progress and the end of
        work.
        """
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        listeners.add(queue)

        async def stream() -> AsyncIterator[str]:
            try:
                yield f"data: {json.dumps({'event': 'changed', 'revision': draft.revision})}\n\n"
                event: dict[str, Any] = {}
                while event.get("event") != "stopping":
                    try:
                        event = await asyncio.wait_for(queue.get(), 15)
                        yield f"data: {json.dumps(event)}\n\n"
                    except TimeoutError:
                        yield ": still there\n\n"
            finally:
                listeners.discard(queue)

        return StreamingResponse(
            stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return app


def _again(engine: Engine) -> None:
    try:
        engine.execute()
    except (SpecError, EditError, Conflict):
        engine.draft.executed = False


def _answer_errors(app: FastAPI) -> None:
    """Errors as answers of one form."""

    def answer(
        status: int, message: str, hint: str = "", problems: list[FoundProblem] | None = None
    ) -> JSONResponse:
        return JSONResponse(
            Failure(message=message, hint=hint, problems=problems or []).model_dump(), status
        )

    @app.exception_handler(Conflict)
    def conflict(request: Request, error: Conflict) -> JSONResponse:
        return answer(409, str(error), "Load it again; undo brings the other text back.")

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        return answer(409, f"Not now: {error}.", "Wait for it, or cancel it.")

    @app.exception_handler(Missing)
    def missing(request: Request, error: Missing) -> JSONResponse:
        return answer(404, str(error))

    @app.exception_handler(SpecError)
    def spec_error(request: Request, error: SpecError) -> JSONResponse:
        return answer(
            422,
            "The spec has mistakes.",
            "They are shown at their lines.",
            problems_found(error.problems),
        )

    @app.exception_handler(MaskError)
    def mask_error(request: Request, error: MaskError) -> JSONResponse:
        return answer(422, error.message, error.hint)

    @app.exception_handler(EditError)
    def edit_error(request: Request, error: EditError) -> JSONResponse:
        return answer(422, error.message, error.hint)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        ]
        return answer(422, "; ".join(said))


def _put_all(item: Any, fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        put(item, key, value)


def _set_place(item: Any, role: str, index: int | None, place: dict[str, Any]) -> None:
    """Set a place of an edit, or add one to its context; of the same image, it keeps what else is
    said of it.
    """
    context = item.get("context") if role == "context" else None
    if role == "context" and (
        not isinstance(context, list) or index is None or index >= len(context)
    ):
        put(item, "context", [*(context or []), place])
        return
    old = item.get(role) if context is None else context[index]
    if isinstance(old, dict) and old.get("latent") == place["latent"]:
        old["mask"] = in_flow(place["mask"])
    elif context is None:
        put(item, role, place)
    else:
        context[index] = in_flow(place)


def _drop_place(item: Any, role: str, index: int) -> None:
    if role != "context":
        del item[role]
    elif len(item["context"]) == 1:
        del item["context"]
    else:
        del item["context"][index]
