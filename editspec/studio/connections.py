"""Limits of the studio's connections: their number, and the time of a request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 100
"""Connections at a time; a page holds a handful."""

HEAD_SECONDS = 20.0
"""Seconds within which the head of a request has to arrive."""

if TYPE_CHECKING:
    from asyncio import TimerHandle


class LimitedProtocol(H11Protocol):
    """HTTP in which a request that never comes or ends holds no connection for long."""

    timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and wait only so long for those that are missing in a head."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        # The time counts from the first byte that was waited for: a byte a minute is not enough.
        if self.timer is None:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _give_up(self) -> None:
        self.timer = None
        # Quick requests may have come and gone since; uvicorn closes what is idle by itself.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
