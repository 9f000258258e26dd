"""Long work in the background: one piece at a time, with progress, and cancelled where it
reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from editspec_compiler import SpecError
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError

Listener = Callable[[dict[str, Any]], None]

SECONDS_BETWEEN = 0.1
"""Between two reports of the same task that listeners are told of."""


class Busy(Exception):
    """Other work is under way."""


class Cancelled(BaseException):
    """Raised out of the work that is cancelled. No `Exception`, so that nothing on the way takes it
    for an error.
    """


@dataclass
class Job:
    """A piece of work.

    Attributes
    ----------
    kind
        What it is: ``execute``, ``search``, …
    yielding
        Whether it is given up for other work.
    what, done, total
        How far it is.
    failure
        What went wrong with it, once it has ended.
    """

    kind: str
    yielding: bool
    what: str = ""
    done: int = 0
    total: int = 0
    cancelled: bool = False
    failure: dict[str, Any] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def as_json(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {"kind": self.kind, "what": self.what, "done": self.done, "total": self.total}


class Jobs:
    """The work of a session, on a thread of its own."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.job: Job | None = None
        self.failure: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def start(
        self, kind: str, work: Callable[[ProgressCallback], None], *, yielding: bool = False
    ) -> Job:
        """Begin `work`, which gets a report to call. Raises `Busy` where other work is under
        way.
        """
        job = Job(kind, yielding)
        with self._lock:
            if (before := self.job) is not None and before.yielding:
                before.cancelled = True
                before.ended.wait()
            if self.job is not None:
                raise Busy(f"{self.job.what or self.job.kind} is under way")
            self.job, self.failure = job, None
        # What is allowed to the command that serves (--allow-code) is allowed to its work.
        threading.Thread(
            target=copy_context().run, args=(self._run, job, work), name=kind, daemon=True
        ).start()
        return job

    def cancel(self) -> None:
        """Have the work that is under way stop at its next report."""
        job = self.job
        if job is not None:
            job.cancelled = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the work that is under way has ended; whether it has."""
        job = self.job
        return job is None or job.ended.wait(seconds)

    def tell(self, event: dict[str, Any]) -> None:
        """Tell all listeners something."""
        for listener in list(self.listeners):
            listener(event)

    def _run(self, job: Job, work: Callable[[ProgressCallback], None]) -> None:
        told: dict[str, float] = {}

        def progress(what: str, done: int, total: int) -> None:
            if job.cancelled:
                raise Cancelled
            job.what, job.done, job.total = what, done, total
            now = time.monotonic()
            if done >= total or now - told.get(what, -1.0) >= SECONDS_BETWEEN:
                told[what] = now
                self.tell({"event": "progress", **job.as_json()})

        failure: dict[str, Any] | None = None
        self.tell({"event": "begun", **job.as_json()})
        try:
            work(progress)
        except Cancelled:
            failure = (
                None if job.yielding else {"message": "Cancelled.", "hint": "", "problems": []}
            )
        except SpecError as error:
            failure = {"message": str(error), "hint": "", **error.as_json()}
        except EditError as error:
            failure = {"message": error.message, "hint": error.hint, "problems": []}
        except (MemoryError, OSError) as error:
            failure = {"message": str(error) or "Out of memory.", "hint": "", "problems": []}
        except Exception as error:
            logging.getLogger(__name__).exception("a defect of editspec")
            failure = {
                "message": f"{type(error).__name__}: {error}",
                "hint": "This is a defect of editspec. Please report it.",
                "problems": [],
            }
        self.job, self.failure, job.failure = None, failure, failure
        job.ended.set()
        self.tell({"event": "ended", "kind": job.kind, "failure": failure})
