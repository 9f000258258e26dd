"""Long work in the background: one piece at a time, which can be cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from editspec_compiler import SpecError
from editspec_runtime.codes import Code
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import MORE_MEMORY, EditError

Event = dict[str, Any]
"""Something that happened: its name under ``event``, and what belongs to it."""

Listener = Callable[[Event], None]
Work = Callable[[ProgressCallback], None]

SECONDS_BETWEEN = 0.1
"""Between two reports of a task that listeners are told of."""


FILE_HINT = "See that the disk is not full and that you may read and write the project folder."


class Busy(Exception):
    """A request for work while other work is under way."""


class Cancelled(BaseException):
    """The end of work that was cancelled.

    It is not an `Exception`, so that nothing on its way takes it for an error.
    """


@dataclass
class Job:
    """A piece of work.

    Attributes
    ----------
    kind
        ``execute``, ``search``, …
    yielding
        Whether the work is given up for other work.
    what, done, total
        The task that was reported last, its steps that are done, and all its steps.
    cancelled
        Whether the work is to stop at its next report.
    cause
        The digest of the spec that it works on: a failure is of no concern to another.
    failure
        The reason for which the work failed, once it has ended.
    ended
        Set after the listeners were told of the end.
    """

    kind: str
    yielding: bool
    what: str = ""
    done: int = 0
    total: int = 0
    cancelled: bool = False
    cause: str = ""
    failure: dict[str, Any] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def as_json(self) -> dict[str, Any]:
        """Describe the work to the page."""
        return {
            "kind": self.kind,
            "yielding": self.yielding,
            "what": self.what,
            "done": self.done,
            "total": self.total,
        }


class Jobs:
    """The work of a studio, on a thread of its own."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.job: Job | None = None
        self.latest: Job | None = None
        self.failure: dict[str, Any] | None = None
        self.cause = ""
        self._lock = threading.Lock()

    def start(self, kind: str, work: Work, *, cause: str = "", yielding: bool = False) -> Job:
        """Begin `work` on a spec with the digest `cause`. It gets a progress callback.

        With `yielding`, it is given up as soon as other work is started. Raises `Busy` where other
        work is under way.
        """
        job = Job(kind, yielding, cause=cause)
        with self._lock:
            if (before := self.job) is not None and before.yielding:
                before.cancelled = True
                before.ended.wait()
            if self.job is not None:
                raise Busy(f"{self.job.what or self.job.kind} is under way")
            if self.latest is not None:
                # Listeners are told of its end before they are told of this beginning.
                self.latest.ended.wait()
            self.job, self.latest, self.failure, self.cause = job, job, None, cause
        # A context variable holds --allow-code, and a thread begins with an empty context.
        context = copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run, job, work), name=kind, daemon=True
        )
        thread.start()
        return job

    def cancel(self) -> None:
        """Have the work that is under way stop at its next report."""
        job = self.job
        if job is not None:
            job.cancelled = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the latest work has ended, and tell whether it has.

        Listeners were told of the end by then.
        """
        job = self.latest
        return job is None or job.ended.wait(seconds)

    def tell(self, event: Event) -> None:
        """Tell all listeners of an event."""
        for listener in list(self.listeners):
            listener(event)

    def _run(self, job: Job, work: Work) -> None:
        self.tell({"event": "begun", **job.as_json()})
        failure = _find_failure(job, work, self._report_progress(job))
        self.job, self.failure, job.failure = None, failure, failure
        try:
            self.tell({"event": "ended", "kind": job.kind, "failure": failure})
        finally:
            # Others wait for this, whatever a listener does.
            job.ended.set()

    def _report_progress(self, job: Job) -> ProgressCallback:
        """Make the callback that a piece of work reports to."""
        last_told: dict[str, float] = {}

        def progress(what: str, done: int, total: int) -> None:
            if job.cancelled:
                raise Cancelled
            job.what, job.done, job.total = what, done, total
            now = time.monotonic()
            is_due = now - last_told.get(what, -1.0) >= SECONDS_BETWEEN
            # The last step is always told, so that no page stays at 99 %.
            if done >= total or is_due:
                last_told[what] = now
                self.tell({"event": "progress", **job.as_json()})

        return progress


def _find_failure(job: Job, work: Work, progress: ProgressCallback) -> dict[str, Any] | None:
    """Do a piece of work, and describe why it failed; None where it did not."""
    try:
        work(progress)
    except Cancelled:
        return None
    except SpecError as error:
        return _describe_failure(Code.SPEC, str(error)) | error.as_json()
    except EditError as error:
        return _describe_failure(error.code, error.message, error.hint)
    except MemoryError:
        return _describe_failure(Code.MEMORY, "The work does not fit into memory.", MORE_MEMORY)
    except OSError as error:
        file = error.filename or "A file"
        return _describe_failure(Code.FILE, f"{file} cannot be read or written.", FILE_HINT)
    except Exception as error:
        logging.getLogger(__name__).exception("a defect of editspec")
        hint = "This is a defect of editspec. Please report it."
        return _describe_failure(Code.ERROR, f"{type(error).__name__}: {error}", hint)
    return None


def _describe_failure(code: Code, message: str, hint: str = "") -> dict[str, Any]:
    return {"code": str(code), "message": message, "hint": hint, "problems": []}
