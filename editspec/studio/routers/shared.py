"""The state, the parameters and the answers that the endpoints share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from fastapi import Path as PathParameter

from editspec.studio.describe import state_of
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine
from editspec.studio.jobs import Event, Jobs
from editspec.studio.modalities.image.images import Images
from editspec.studio.schemas import Failure, State


@dataclass(frozen=True)
class Studio:
    """The state that all endpoints work with.

    Attributes
    ----------
    draft, engine, images, jobs
        The spec, the engine that computes with it, its part about images of latents, and the work
        in the background.
    queues
        The events that are still to be sent, a queue for each page that listens.
    """

    draft: Draft
    engine: Engine
    images: Images
    jobs: Jobs
    queues: set[asyncio.Queue[Event]] = field(default_factory=set)

    def state(self) -> State:
        """Describe all that the page shows now."""
        # Only the copy is made under the lock: to look at a large text takes long.
        with self.draft.lock:
            draft = self.draft.snapshot()
            outcome = self.engine.outcomes.find(draft.content)
        return state_of(draft, self.engine, self.images, outcome, self.jobs)

    def act(self, revision: int, action: Callable[[], None]) -> State:
        """Do something on a revision, tell all pages, and describe the new state.

        Raises `Conflict` where the spec is at another revision.
        """
        # A large text is parsed before anybody has to wait for it.
        self.draft.prepare()
        with self.draft.lock:
            self.draft.require(revision)
            action()
        return self.tell_change()

    def save(self, revision: int, *, overwrite: bool) -> None:
        """Write the spec into its file, with its masks as files.

        Raises `Conflict` as `act` does, or where another program has changed the file and it is not
        to be overwritten; `SpecError` and `EditError` where the text is wrong.
        """
        self.draft.prepare()
        with self.draft.lock:
            self.draft.require(revision)
            self.draft.name_masks()
            named = self.draft.snapshot()
        named.load()
        with self.draft.lock:
            self.draft.require(named.revision)
            self.draft.save(overwrite=overwrite)

    def tell_change(self) -> State:
        """Tell all pages that the spec has changed, and describe the new state."""
        self.jobs.tell({"event": "changed", "revision": self.draft.revision})
        return self.state()

    def rewrite(self, revision: int, rewrite_text: Callable[[str], str]) -> State:
        """Change the text of the spec on a revision. Raises as `act` does."""

        def action() -> None:
            self.draft.change(rewrite_text(self.draft.text))

        return self.act(revision, action)


async def get_studio(request: Request) -> Studio:
    """Return the studio that the application was made for."""
    studio: Studio = request.app.state.studio
    return studio


CurrentStudio = Annotated[Studio, Depends(get_studio)]

Number = Annotated[
    int, PathParameter(ge=0, lt=10_000, description="The number of an edit among all, on or off.")
]
Role = Annotated[
    Literal["source", "target", "context"], PathParameter(description="Copy, Paste or Context.")
]
Index = Annotated[int, Query(ge=0, lt=10_000, description="The number of a place in the context.")]
Revision = Annotated[int, Query(ge=0, description="The revision that the change was made on.")]
LatentNumber = Annotated[int, PathParameter(ge=0, lt=2**63)]

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


def answer_png(png: bytes, cache: str | None = None) -> Response:
    """Answer with a picture. `cache` is its Cache-Control."""
    headers = {"Cache-Control": cache} if cache else None
    return Response(png, media_type="image/png", headers=headers)
