"""The workers of a Dask cluster on one job."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import torch
from distributed import Client, Future, KilledWorker, WorkerPlugin, get_worker
from distributed.client import ClosedClientError

from editspec_runtime.errors import WorkerError
from editspec_runtime.executors.work import compute_item, pack_job

ANSWER = 5.0
"""The seconds in which a scheduler has to answer."""

PULSE = 1.0
"""The seconds between two looks at the cluster."""

LOST = (OSError, TimeoutError, CancelledError, ClosedClientError)
"""The errors of a connection to a scheduler that is gone."""

START_AGAIN = "Start again: finished work is kept in the cache."


@dataclass
class Crew:
    """The workers of a cluster on one job.

    Attributes
    ----------
    client
        The connection to the scheduler.
    function, device
        The function of the job, and the device that computes.
    allowed
        The workers that can do an item; None for all.
    patience
        The seconds without any worker after which the run ends.
    futures
        The items that are not collected yet, with their numbers.
    ended
        Those that have ended since they were last collected, however they did.
    """

    client: Client
    function: Callable[[Any], Any]
    device: torch.device
    allowed: list[str] | None
    patience: float
    futures: dict[Future, tuple[int, Any]] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"editspec-{uuid.uuid4().hex[:12]}")
    ended: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    turns: Iterator[int] = field(default_factory=itertools.count)
    count: int = 1
    looked: float = 0.0
    alone_since: float | None = None

    def __post_init__(self) -> None:
        packed = pack_job(self.function, self.device)
        self.client.register_plugin(_JobPlugin(self.name, packed))

    @property
    def size(self) -> int:
        """The number of workers."""
        if time.monotonic() - self.looked >= PULSE:
            self.look()
        return self.count

    def look(self) -> None:
        """Count the workers. Raises `WorkerError` where scheduler or workers are gone."""
        now = time.monotonic()
        if self.client.status != "running":
            raise gone_error(self.client)
        try:
            known = self.client.scheduler_info(n_workers=-1)["workers"]
        except LOST as error:
            raise gone_error(self.client) from error
        if self.allowed is not None:
            known = {name: known[name] for name in self.allowed if name in known}
        usable = [name for name, each in known.items() if each["status"] == "running"]
        self.count, self.looked = max(1, len(usable)), now
        if usable:
            self.alone_since = None
            return
        self.alone_since = self.alone_since or now
        if now - self.alone_since <= self.patience:
            return
        if known:
            raise WorkerError(
                f"All workers have paused for {self.patience:.0f} seconds, as they are short of "
                "memory.",
                f"Start workers with a larger --memory-limit. {START_AGAIN}",
            )
        raise WorkerError(
            f"All workers have ended, and none has joined for {self.patience:.0f} seconds.",
            f"Their output may say why. {START_AGAIN}",
        )

    def begin(self, number: int, item: Any) -> None:
        """Give an item to the scheduler."""
        try:
            future = self.client.submit(
                _compute,
                self.name,
                item,
                key=f"{self.name}-{number}-{next(self.turns)}",
                pure=False,
                workers=self.allowed,
                resources={"GPU": 1} if self.device.type == "cuda" else None,
            )
        except LOST as error:
            raise gone_error(self.client) from error
        self.futures[future] = number, item
        future.add_done_callback(self.ended.put)

    def collect(self) -> Mapping[int, bytes]:
        """Wait for some items; the engine gives those of a worker that dies to others."""
        found: dict[int, bytes] = {}
        while not found:
            by_status: dict[str, list[Future]] = {}
            for future in self._wait():
                by_status.setdefault(future.status, []).append(future)
            for future in by_status.get("error", []):
                raise _translate(future.exception(timeout=ANSWER))
            for future in by_status.get("cancelled", []) + by_status.get("lost", []):
                self.begin(*self.futures.pop(future))
            if finished := by_status.get("finished"):
                found = self._fetch(finished)
            else:
                self.look()
        return found

    def end(self) -> None:
        """Cancel what is not collected, and let the workers forget the job."""
        with suppress(*LOST):
            self.client.cancel(list(self.futures), force=True)
            self.client.unregister_worker_plugin(self.name)
        self.futures = {}

    def _wait(self) -> list[Future]:
        """Wait for futures that have ended, however they did; all of them after a while."""
        ended: set[Future] = set()
        with suppress(Empty):
            ended.add(self.ended.get(timeout=PULSE))
            while True:
                ended.add(self.ended.get_nowait())
        if not ended:
            return list(self.futures)
        return [future for future in ended if future in self.futures]

    def _fetch(self, futures: list[Future]) -> dict[int, bytes]:
        """Fetch what was computed, by number, however long the network takes."""
        # One question for all: each would take a way to the workers and back.
        question = self.client.gather(futures, asynchronous=True)
        answer = asyncio.run_coroutine_threadsafe(question, self.client.loop.asyncio_loop)
        while True:
            try:
                results = answer.result(timeout=PULSE)
                break
            except (KilledWorker, ImportError) as error:
                raise _translate(error) from error
            except LOST:
                # Raises where the scheduler or all workers are gone.
                self.look()
                if answer.done():
                    return {}
            except BaseException:
                answer.cancel()
                raise
        numbers = [self.futures.pop(future)[0] for future in futures]
        return dict(zip(numbers, results, strict=True))


def _translate(error: Exception) -> WorkerError:
    """The error of a command whose item the engine could not have computed."""
    if isinstance(error, KilledWorker):
        return WorkerError(
            "Several workers have ended while they had the same item of work.",
            "They may be short of memory: see the output of the workers, and give them more. "
            + START_AGAIN,
        )
    if isinstance(error, ImportError):
        return WorkerError(
            f"A worker lacks the package {(error.name or 'editspec').partition('.')[0]}.",
            "Install editspec with the extra cluster for the Python of the workers, in the "
            "version of the command.",
        )
    return WorkerError(f"A worker failed before it began ({type(error).__name__}).", START_AGAIN)


def gone_error(client: Client) -> WorkerError:
    """Make the error about a scheduler that does not answer any longer."""
    address = client.scheduler.address if client.scheduler else "the address"
    return WorkerError(f"The scheduler at {address} is gone.", START_AGAIN)


class _JobPlugin(WorkerPlugin):  # type: ignore[misc]  # the engine is not typed
    """A job, which the engine gives to every worker once, to those that join later, too."""

    def __init__(self, name: str, packed: bytes) -> None:
        self.name = name
        self.packed = packed


def _compute(job: str, item: Any) -> bytes:
    """Compute an item in a worker, which does one at a time, however many threads it has."""
    worker = get_worker()
    with _lock_of(worker):
        return compute_item(worker.plugins[job].packed, item)


def _lock_of(worker: Any) -> Lock:
    """The lock of a worker."""
    lock: Lock = worker.__dict__.setdefault("_editspec_lock", Lock())
    return lock
