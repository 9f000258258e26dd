"""The API of the studio, and its page. Every change names the revision that it was made on."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from editspec.inspection import known_layout
from editspec.studio.editing import added, changed, in_flow, moved, put, removed, switched
from editspec.studio.engine import FRESH, Engine
from editspec.studio.jobs import Busy, Jobs
from editspec.studio.security import Guard
from editspec.studio.session import NEW, Conflict, Session, held, png
from editspec.workflow import BuiltEdit
from editspec_compiler import Problem, SpecError
from editspec_compiler.errors import path_text
from editspec_compiler.masks import MaskError
from editspec_compiler.schema import METHOD_FIELDS, OPTIONAL, SOLVERS, Box, Mask, Place, Solver, fitting
from editspec_runtime.checkpoint import read_checkpoint, weights_path
from editspec_runtime.digest import digest
from editspec_runtime.downloads import is_remote
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.least_squares import CURVE, Point

STATIC = Path(__file__).parent / "static"
PORT = 8642
SEARCHED, FOUND = 500, 12
"""Images that a search looks through, and places that it gives."""

Number = Annotated[int, PathParameter(ge=0, lt=10_000, description="Of all edits, on or off, in their order.")]
Role = Annotated[Literal["source", "target", "context"], PathParameter(description="Copy, Paste or Context.")]
Index = Annotated[int, Query(ge=0, lt=10_000, description="Of the places of a context.")]
Revision = Annotated[int, Query(ge=0, description="The revision that the change was made on.")]
Latent = Annotated[int, Field(ge=0, lt=2**63)]
Shift = Annotated[int, Field(ge=-8192, le=8192)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OnRevision(_Body):
    """A change that needs no more than the revision that it was made on."""

    revision: int = Field(ge=0)


class NewText(OnRevision):
    """The text of the spec."""

    text: str


class EditChange(OnRevision):
    """What is to change of an edit; what is left out stays."""

    name: str | None = None
    layer: str | None = None
    rank: int | None = Field(None, ge=1, lt=2**31)
    solver: dict[str, Any] | str | None = None
    off: bool | None = None
    position: int | None = Field(None, ge=0)


class PlaceChange(OnRevision):
    """A place that was painted: a data URL of a PNG, or a box in pixels."""

    latent: Latent
    mask: str | Box
    index: int | None = Field(None, ge=0)


class Paste(_Body):
    """Where the copied value goes: the source's mask, moved by some pixels, in an image."""

    latent: Latent
    right: Shift
    down: Shift


class PasteChange(OnRevision, Paste):
    """The same as a change of the spec."""


class SaveRequest(OnRevision):
    """Save, over what another program has written meanwhile or not."""

    overwrite: bool = False


class FoundProblem(BaseModel):
    """One thing that is wrong, at its line and column from 1 (0 where it has no place)."""

    message: str
    path: str
    line: int
    column: int
    hint: str


class Failure(BaseModel):
    """Why something was not done, and what to do."""

    message: str
    remedy: str
    problems: list[FoundProblem]


class PlaceState(BaseModel):
    """A source, target or context: its image by number, or in words where it has none; its mask by a digest of what
    the spec says of it, empty where there is none."""

    latent: int | None
    words: str
    mask: str


class EditState(BaseModel):
    """An edit, as far as the text gives it."""

    name: str
    layer: str
    rank: int
    solver: dict[str, Any]
    off: bool
    line: int
    source: PlaceState | None
    target: PlaceState | None
    context: list[PlaceState]
    note: str


class CurvePoint(BaseModel):
    """A point of a curve: both losses are shares of those before the edit."""

    smoothness: float
    loss: float
    collateral: float


class EditResult(BaseModel):
    """What Execute made of an edit."""

    name: str
    layer: str
    rank: int | None
    method: str
    status: str
    loss: float
    residual: float | None
    collateral: float
    seconds: float
    digest: str
    curve: list[CurvePoint] | None


class Results(BaseModel):
    """What Execute made: whether of this text, the name of the generator that draws it, and each edit."""

    current: bool
    after: str
    edits: list[EditResult]


class LayerState(BaseModel):
    """A layer that can be edited: channels and positions of its keys and values."""

    name: str
    in_channels: int
    out_channels: int
    key_size: int
    value_size: int


class ModelState(BaseModel):
    """The model: the name of its generator, its weights, layers, image size and the streams of its latents."""

    name: str
    weights: str
    digest: str
    layers: list[LayerState]
    image_size: int
    seed: int
    fresh_seed: int


class SolverState(BaseModel):
    """A solver: its settings and their defaults, and whether an edit with it has a rank and a context."""

    method: str
    settings: dict[str, Any]
    rank: bool
    context: bool


class Match(BaseModel):
    """A place like those of a context: its image, how much it responds, and a box in pixels."""

    latent: int
    score: float
    box: list[float]


class State(BaseModel):
    """All that the page shows."""

    revision: int
    file: str
    text: str
    saved: bool
    changed_outside: bool
    problems: list[FoundProblem]
    edits: list[EditState]
    model: ModelState
    solvers: list[SolverState]
    smoothness: list[float]
    can_undo: bool
    can_redo: bool
    results: Results | None
    found: dict[str, list[Match]]
    job: dict[str, Any] | None
    failure: Failure | None


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "No token, or a wrong one."},
    403: {"model": Failure, "description": "From another page, or under a foreign name."},
    404: {"model": Failure, "description": "There is no such edit, place or generator."},
    409: {"model": Failure, "description": "The spec was changed elsewhere, or other work is under way."},
    413: {"model": Failure, "description": "Too large."},
    422: {"model": Failure, "description": "The spec, or what was sent, is wrong."},
}
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "A PNG."}}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Events."}}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


class Missing(Exception):
    """There is no such edit, place or generator."""


def make_app(session: Session, engine: Engine, jobs: Jobs) -> FastAPI:
    """The application around a session; it still has to be guarded."""
    listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def hear(event: dict[str, Any]) -> None:
            for queue in list(listeners):
                loop.call_soon_threadsafe(queue.put_nowait, event)

        jobs.listeners.append(hear)
        if session.executed:
            # The solutions are in the cache: what was executed before the server was stopped is soon there again.
            await asyncio.to_thread(_again, engine)
        yield
        jobs.listeners.remove(hear)
        jobs.cancel()

    app = FastAPI(
        title="editspec studio", version="1", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
        lifespan=lifespan, responses=REFUSALS,
    )  # fmt: skip
    _answer_errors(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    def state() -> State:
        with session.lock:
            return _state(session, engine, jobs)

    def change(revision: int, new_text: Callable[[str], str]) -> State:
        with session.lock:
            session.require(revision)
            session.change(new_text(session.text))
        return told()

    def told() -> State:
        jobs.tell({"event": "changed", "revision": session.revision})
        return state()

    def edit_at(number: int) -> dict[str, Any]:
        edits = session.edits()
        if number >= len(edits) or not isinstance(edits[number], dict):
            raise Missing(f"There is no edit {number}.")
        found: dict[str, Any] = edits[number]
        return found

    def place_at(number: int, role: str, index: int) -> Place:
        given = edit_at(number).get(role)
        document = session.document()
        if outside := session.bounds.problems(document):
            raise SpecError(document.file, outside, document.text)
        if role == "context":
            given = given[index] if isinstance(given, list) and index < len(given) else None
        kept = {name: given[name] for name in ("latent", "mask") if name in given} if isinstance(given, dict) else {}
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
        with session.lock:
            session.require(body.revision)
            session.undo()
        return told()

    @app.post("/api/redo")
    def redo(body: OnRevision) -> State:
        """Go on to the text that was undone."""
        with session.lock:
            session.require(body.revision)
            session.redo()
        return told()

    @app.post("/api/edits")
    def add_edit(body: OnRevision) -> State:
        """Add an edit at the end, like the one before it."""
        edits = session.edits()
        names = {edit.get("name") for edit in edits if isinstance(edit, dict)}
        name = next(name for n in range(1, len(edits) + 2) if (name := f"edit-{n}") not in names)
        layer = usual_layer(list(engine.base().generator.layout.layers))
        item: dict[str, Any] = {"name": name, "layer": layer, "rank": 4, "solver": "least-squares"}
        if edits and isinstance(edits[-1], dict):
            item |= {key: edits[-1][key] for key in ("layer", "rank", "solver") if key in edits[-1]}
        return change(body.revision, lambda text: added(text, session.file, item))

    @app.patch("/api/edits/{number}")
    def change_edit(number: Number, body: EditChange) -> State:
        """Rename an edit, give it another layer, rank or solver, switch it off or on, or move it."""
        fields = {key: getattr(body, key) for key in ("name", "layer", "rank", "solver")}

        def new_text(text: str) -> str:
            edit_at(number)
            given = {key: value for key, value in fields.items() if value is not None}
            if given:
                text = changed(text, session.file, number, lambda item: _put_all(item, given))
            if body.off is not None and body.off != session.is_off(number):
                text = switched(text, session.file, number, off=body.off)
            if body.position is not None:
                text = moved(text, session.file, number, min(body.position, len(session.edits()) - 1))
            return text

        return change(body.revision, new_text)

    @app.delete("/api/edits/{number}")
    def remove_edit(number: Number, revision: Revision) -> State:
        """Remove an edit from the spec."""

        def new_text(text: str) -> str:
            edit_at(number)
            return removed(text, session.file, number)

        return change(revision, new_text)

    @app.put("/api/edits/{number}/places/{role}")
    def put_place(number: Number, role: Role, body: PlaceChange) -> State:
        """Set the source or the target, or a place of the context (one more, without an index)."""

        def new_text(text: str) -> str:
            edit_at(number)
            if isinstance(body.mask, Box):
                mask: Any = {"box": [int(edge) if edge.is_integer() else edge for edge in body.mask.box]}
            elif body.mask.startswith("data:"):
                mask = session.add_mask(body.mask, body.latent)
            else:
                raise UsageError("A painted mask is a data URL of a PNG.")
            place = {"latent": body.latent, "mask": mask}
            return changed(text, session.file, number, lambda item: _set_place(item, role, body.index, place))

        return change(body.revision, new_text)

    @app.delete("/api/edits/{number}/places/{role}")
    def remove_place(number: Number, role: Role, revision: Revision, index: Index = 0) -> State:
        """Remove the source or the target, or a place of the context."""

        def new_text(text: str) -> str:
            place_at(number, role, index)
            return changed(text, session.file, number, lambda item: _drop_place(item, role, index))

        return change(revision, new_text)

    @app.post("/api/edits/{number}/paste")
    def paste(number: Number, body: PasteChange) -> State:
        """Put the target where the copied value was dragged to."""

        def new_text(text: str) -> str:
            source = place_at(number, "source", 0)
            mask = session.add_mask(engine.shifted(source.mask, body.right, body.down), body.latent)
            place = {"latent": body.latent, "mask": mask}
            return changed(text, session.file, number, lambda item: _set_place(item, "target", None, place))

        return change(body.revision, new_text)

    @app.post("/api/edits/{number}/composite", response_class=Response, responses=PICTURE)
    def composite(number: Number, body: Paste | None = None) -> Response:
        """The target with the copied value pasted, drawn by the rest of the model: as the spec has it, or elsewhere."""
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
            return Response(engine.image(base.name, base.latents.seed, latent), media_type="image/png")
        loaded = session.load_alone(number)
        vector = loaded.latent_vector(latent, ("edits", 0), base.generator.layout.latent_size)
        return Response(engine.scene(vector), media_type="image/png")

    @app.get("/api/images/{name}/{seed}/{latent}", response_class=Response, responses=PICTURE)
    def read_image(
        name: Annotated[str, PathParameter(pattern="^[0-9a-f]{16}$", description="Of the generator that draws.")],
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
        """Where the key of an edit's context responds in an image: white as much as in the context itself."""
        edit_at(number)
        return Response(engine.heat(number, latent), media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.post("/api/edits/{number}/search", status_code=202)
    def search(number: Number) -> State:
        """Begin to look for places like the context of an edit."""
        edit_at(number)
        engine.search(number, SEARCHED, FOUND)
        return state()

    @app.post("/api/execute", status_code=202)
    def execute(body: OnRevision) -> State:
        """Begin to build the edits that are on, and to apply them."""
        with session.lock:
            session.require(body.revision)
            engine.execute()
        return told()

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
        with session.lock:
            session.require(body.revision)
            session.save(overwrite=body.overwrite)
        return told()

    @app.post("/api/export", status_code=202)
    def export(body: SaveRequest) -> State:
        """Save, and begin to write the patches into build/NAME, as editspec build does."""
        with session.lock:
            session.require(body.revision)
            session.save(overwrite=body.overwrite)
            engine.export()
        return told()

    @app.get("/api/events", response_class=StreamingResponse, responses=EVENTS)
    async def events(request: Request) -> StreamingResponse:
        """What happens, as it happens: changes of the spec, and the progress and the end of work."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        listeners.add(queue)

        async def stream() -> AsyncIterator[str]:
            try:
                yield f"data: {json.dumps({'event': 'changed', 'revision': session.revision})}\n\n"
                event: dict[str, Any] = {}
                while event.get("event") != "stopping":
                    try:
                        event = await asyncio.wait_for(queue.get(), 15)
                        yield f"data: {json.dumps(event)}\n\n"
                    except TimeoutError:
                        yield ": still there\n\n"
            finally:
                listeners.discard(queue)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return app


def _again(engine: Engine) -> None:
    try:
        engine.execute()
    except (SpecError, EditError, Conflict):
        engine.session.executed = False


def _answer_errors(app: FastAPI) -> None:
    """Errors as answers of one form."""

    def answer(status: int, message: str, remedy: str = "", problems: list[FoundProblem] | None = None) -> JSONResponse:
        return JSONResponse(Failure(message=message, remedy=remedy, problems=problems or []).model_dump(), status)

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
        return answer(422, "The spec has mistakes.", "They are shown at their lines.", _problems(error.problems))

    @app.exception_handler(MaskError)
    def mask_error(request: Request, error: MaskError) -> JSONResponse:
        return answer(422, error.message, error.hint)

    @app.exception_handler(EditError)
    def edit_error(request: Request, error: EditError) -> JSONResponse:
        return answer(422, error.message, error.remedy)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
        return answer(422, "; ".join(said))


def _put_all(item: Any, fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        put(item, key, value)


def _set_place(item: Any, role: str, index: int | None, place: dict[str, Any]) -> None:
    """Set a place of an edit, or add one to its context; of the same image, it keeps what else is said of it."""
    context = item.get("context") if role == "context" else None
    if role == "context" and (not isinstance(context, list) or index is None or index >= len(context)):
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


def _state(session: Session, engine: Engine, jobs: Jobs) -> State:
    base, failure = engine.base(), jobs.failure
    layout = base.generator.layout
    return State(
        revision=session.revision,
        file=session.file,
        text=session.text,
        saved=session.is_saved,
        changed_outside=session.changed_outside,
        problems=_problems(session.problems()),
        edits=[_edit_state(session, number, edit) for number, edit in enumerate(session.edits())],
        model=ModelState(
            name=base.name,
            weights=base.said.weights,
            digest=base.weights,
            layers=[
                LayerState(**{field: getattr(layer, field) for field in LayerState.model_fields})
                for layer in layout.layers.values()
            ],
            image_size=layout.image_size,
            seed=base.latents.seed,
            fresh_seed=FRESH,
        ),
        solvers=SOLVER_STATES,
        smoothness=[_rounded(point) for point in CURVE],
        can_undo=bool(session.past),
        can_redo=bool(session.future),
        results=_results(session, engine),
        found={
            name: [Match(latent=m["latent"], score=m["score"], box=m["context"]["mask"]["box"]) for m in matches]
            for name, matches in engine.found.items()
        },
        job=jobs.job.as_json() if jobs.job is not None else None,
        failure=Failure(
            message=failure["message"], remedy=failure["remedy"],
            problems=[FoundProblem(**problem) for problem in failure["problems"]],
        ) if failure is not None else None,
    )  # fmt: skip


def _edit_state(session: Session, number: int, edit: Any) -> EditState:
    edit = edit if isinstance(edit, dict) else {}
    solver = fitting(Solver, edit.get("solver", "projected-gradient"))
    context = edit.get("context")
    notes = []
    if edit.get("pairs") is not None:
        notes.append("several pairs of sources and targets")
    if isinstance(edit.get("source"), dict) and "erase" in edit["source"]:
        notes.append("a value that is erased, not copied")
    if edit.get("observe") is not None:
        notes.append(f"observed at {edit['observe']}")
    return EditState(
        name=str(edit.get("name", "")),
        layer=str(edit.get("layer", "")),
        rank=edit["rank"] if type(edit.get("rank")) is int else 1,
        solver=solver.model_dump(exclude_none=True) if solver is not None else {},
        off=session.is_off(number),
        line=session.document().positions[("edits", number)][0],
        source=_place_state(edit.get("source")),
        target=_place_state(edit.get("target")),
        context=[state for place in context if (state := _place_state(place))] if isinstance(context, list) else [],
        note=" and ".join(notes),
    )


def _place_state(given: Any) -> PlaceState | None:
    if not isinstance(given, dict) or "latent" not in given:
        return None
    latent = given["latent"]
    number = latent if type(latent) is int and 0 <= latent < 2**63 else None
    words = str(number) if number is not None else "a vector" if isinstance(latent, list) else "from a file"
    mask = given.get("mask")
    return PlaceState(latent=number, words=words, mask=digest(mask)[:16] if fitting(Mask, mask) is not None else "")


def _results(session: Session, engine: Engine) -> Results | None:
    outcome = engine.outcome
    if outcome is None:
        return None
    return Results(
        current=session.executed,
        after=outcome.after,
        edits=[_edit_result(built, engine.known_curve(built)) for built in outcome.built],
    )


def _edit_result(built: BuiltEdit, curve: list[Point] | None) -> EditResult:
    return EditResult(
        name=built.rule.edit,
        layer=built.rule.layer,
        rank=built.rule.rank,
        method=built.rule.solver.method,
        status=built.status,
        loss=built.loss,
        residual=built.residual,
        collateral=max((each["correlated"] for each in built.patch.metadata["collateral"].values()), default=0.0),
        seconds=sum(built.seconds.values()),
        digest=built.patch.metadata["content"],
        curve=None if curve is None else [
            CurvePoint(smoothness=_rounded(p.smoothness), loss=p.loss, collateral=p.collateral) for p in curve
        ],
    )  # fmt: skip


def _problems(problems: Iterable[Problem]) -> list[FoundProblem]:
    return [
        FoundProblem(message=p.message, path=path_text(p.path), line=p.line, column=p.column, hint=p.hint)
        for p in problems
    ]


def _rounded(smoothness: float) -> float:
    """A smoothness as it is written into a spec."""
    return float(f"{smoothness:.3g}")


SOLVER_STATES = [
    SolverState(
        method=method,
        settings={n: f.default for n, f in settings.model_fields.items() if n not in ("method", "collateral")},
        rank=METHOD_FIELDS[method]["rank"] == OPTIONAL,
        context=METHOD_FIELDS[method]["context"] == OPTIONAL,
    )
    for method, settings in SOLVERS.items()
]


def new_spec(model: str, path: Path) -> str:
    """The text of a spec that edits nothing yet. Raises `EditError` where the weights cannot be used."""
    place = weights_path(model, Path())
    layout = known_layout(read_checkpoint(place), place)
    named = model if model.startswith("builtin:") or is_remote(model) else os.path.relpath(place, path.parent)
    return NEW.format(family=layout.family, weights=json.dumps(named), layer=usual_layer(list(layout.layers)))


def usual_layer(names: list[str]) -> str:
    """The layer that a new edit has: one behind the middle, where parts of objects are drawn."""
    return names[len(names) * 3 // 5]


def serve(
    path: Path, model: str | None, *, host: str, port: int | None, device: str, announce: Callable[[str], None]
) -> None:
    """Open the spec at `path`, or a new one of `model`, and serve it until interrupted.

    Raises
    ------
    SpecError, EditError
        The spec cannot be read, its model cannot be drawn with, or the port is taken.
    """
    if path.exists() and model is not None:
        raise UsageError(f"{path} has a model of its own.", "Leave --model out, or name a SPEC that is not there yet.")
    path = path.absolute()
    new = new_spec(model or "builtin:skyline", path) if not path.exists() else ""
    with held(path), _socket(host, port) as listening:
        session, jobs = Session.open(path, new), Jobs()
        engine = Engine(session, jobs, device)
        engine.base()
        token = secrets.token_urlsafe(24)
        app = Guard(make_app(session, engine, jobs), token, host)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listening.getsockname()[1]}/?token={token}")
        _Server(config, jobs).run([listening])


class _Server(uvicorn.Server):
    """A server that ends the streams of events when it is told to stop: they would keep it from stopping."""

    def __init__(self, config: uvicorn.Config, jobs: Jobs) -> None:
        super().__init__(config)
        self.jobs = jobs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop."""
        self.jobs.tell({"event": "stopping"})
        super().handle_exit(sig, frame)


def _socket(host: str, port: int | None) -> socket.socket:
    """A socket that listens: at the port that was asked for, or at the usual one, or at any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in [PORT, 0] if port is None else [port]:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen(128)
        except OSError as error:
            listening.close()
            failure = error
        else:
            return listening
    raise UsageError(f"Nothing can listen at {host}:{number}: {failure.strerror or failure}.", "Give another --port.")
