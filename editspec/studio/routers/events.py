"""Events: changes of the spec, and the progress and the end of work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from editspec.studio.jobs import Event
from editspec.studio.routers.shared import CurrentStudio, Studio
from editspec.studio.schemas import StudioEvent

EVENTS: dict[int | str, dict[str, Any]] = {200: {"model": StudioEvent, "description": "Events."}}
SECONDS_BETWEEN = 15
"""Seconds of silence after which a comment is sent, so that no proxy closes the connection."""

router = APIRouter(prefix="/api")


class EventStream(StreamingResponse):
    """A stream of events."""

    media_type = "text/event-stream"


@router.get("/events", response_class=EventStream, responses=EVENTS)
async def events(studio: CurrentStudio) -> EventStream:
    """Stream the changes of the spec, and the progress and the end of work."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    studio.queues.add(queue)
    return EventStream(_stream_events(studio, queue), headers={"Cache-Control": "no-store"})


async def _stream_events(studio: Studio, queue: asyncio.Queue[Event]) -> AsyncIterator[str]:
    try:
        # A page that connects again may have missed a change.
        event: Event = {"event": "changed", "revision": studio.draft.revision}
        yield f"data: {json.dumps(event)}\n\n"
        while event["event"] != "stopping":
            try:
                event = await asyncio.wait_for(queue.get(), SECONDS_BETWEEN)
                yield f"data: {json.dumps(event)}\n\n"
            except TimeoutError:
                yield ": still there\n\n"
    finally:
        studio.queues.discard(queue)
