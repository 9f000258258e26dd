"""The application: the page, the API, and errors as answers of one form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from editspec.studio.describe import problems_found
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine
from editspec.studio.jobs import Busy, Event, Jobs
from editspec.studio.modalities.image.images import Images
from editspec.studio.refusals import Conflict, Missing
from editspec.studio.routers import edits, events, images, jobs, page, places, spec
from editspec.studio.routers.page import STATIC
from editspec.studio.routers.shared import REFUSALS, Studio
from editspec.studio.schemas import Failure, FoundProblem
from editspec_compiler import SpecError
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_runtime.codes import Code
from editspec_runtime.errors import EditError

ROUTERS = (page, spec, edits, places, images, jobs, events)


def make_app(draft: Draft, engine: Engine, background: Jobs) -> FastAPI:
    """Make the application around a draft.

    The application answers everybody, so `guard.Guard` has to go around it.
    """
    studio = Studio(draft, engine, Images(engine), background)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def pass_on(event: Event) -> None:
            # Events come from the thread of the work, and queues of asyncio are not thread-safe.
            for queue in list(studio.queues):
                loop.call_soon_threadsafe(queue.put_nowait, event)

        background.listeners.append(pass_on)
        if draft.is_executed:
            # On a thread: it may read weights, and the loop has to answer meanwhile.
            await asyncio.to_thread(_execute_again, studio)
        yield
        background.listeners.remove(pass_on)
        background.cancel()

    app = make_api(lifespan)
    app.state.studio = studio
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _answer_errors(app)
    return app


def make_api(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Make the application without a draft, which can describe itself and answer nothing."""
    app = FastAPI(
        title="editspec studio",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        responses=REFUSALS,
    )
    for module in ROUTERS:
        app.include_router(module.router)
    return app


def _execute_again(studio: Studio) -> None:
    """Begin to build the edits that were executed before the server was stopped.

    Their solutions are in the cache, so that the results are soon there again.
    """
    try:
        studio.engine.execute()
    except (SpecError, EditError, Conflict):
        studio.draft.executed = None


def _answer_errors(app: FastAPI) -> None:
    """Register an answer for each kind of error."""

    @app.exception_handler(Conflict)
    def conflict(request: Request, error: Conflict) -> JSONResponse:
        return _answer(
            409, error.code, str(error), "Load it again; undo brings the other text back."
        )

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> JSONResponse:
        return _answer(409, Code.USAGE, f"Not now: {error}.", "Wait for it, or cancel it.")

    @app.exception_handler(Missing)
    def missing(request: Request, error: Missing) -> JSONResponse:
        return _answer(404, Code.USAGE, str(error))

    @app.exception_handler(SpecError)
    def spec_error(request: Request, error: SpecError) -> JSONResponse:
        problems = problems_found(error.problems)
        return _answer(
            422, Code.SPEC, "The spec has mistakes.", "They are shown at their lines.", problems
        )

    @app.exception_handler(MaskError)
    def mask_error(request: Request, error: MaskError) -> JSONResponse:
        return _answer(422, Code.MASK_UNFIT, error.message, error.hint)

    @app.exception_handler(EditError)
    def edit_error(request: Request, error: EditError) -> JSONResponse:
        return _answer(422, error.code, error.message, error.hint)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _answer(error.status_code, Code.USAGE, error.detail)

    @app.exception_handler(RequestValidationError)
    def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        lines = []
        for each in error.errors():
            place = ".".join(str(part) for part in each["loc"])
            lines.append(f"{place}: {each['msg']}")
        return _answer(422, Code.USAGE, "; ".join(lines))


def _answer(
    status: int,
    code: Code,
    message: str,
    hint: str = "",
    problems: list[FoundProblem] | None = None,
) -> JSONResponse:
    failure = Failure(code=code, message=message, hint=hint, problems=problems or [])
    return JSONResponse(failure.model_dump(), status)
