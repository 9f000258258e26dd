"""Processes of this machine, each of which computes items by one thread."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch

from editspec_runtime.core.executor import InProcess
from editspec_runtime.errors import WorkerError
from editspec_runtime.executors.devices import visible_gpus
from editspec_runtime.executors.work import MOST_DEATHS, begin_here, compute_item, pack_job, spread
from editspec_runtime.io.foreign_code import ALLOW_CODE
from editspec_runtime.maths.parallel import count_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 4.0
"""The seconds that must be saved before processes are started: about twice what that takes."""

START_AGAIN = 0.5
"""The seconds that must be saved where the processes run already."""


class LocalProcesses:
    """Processes of this machine; work that is too small for them stays in this process.

    As a context, it ends them.

    Parameters
    ----------
    workers
        The number of processes. Default: the number of threads that this process may use; work
        that uses them all then stays in this process.
    start
        The seconds that must be saved before processes are started.
    """

    def __init__(self, workers: int | None = None, start: float = START) -> None:
        self.chosen = workers
        self.start = start
        self._workers: list[_Worker] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return InProcess, ()

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def workers(self) -> int:
        """The number of processes that may do the work."""
        return self.chosen or count_threads()

    def end(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
        *,
        memory: int = 0,
        threaded: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, as `Executor.map`.

        Items are computed here until it is known that the rest takes long enough. Of several GPUs
        each worker has one.
        """
        device = device or torch.device("cpu")
        count = self._count(device, memory)
        here = count_threads() if threaded and self.chosen is None else 1

        def pays(seconds: float) -> bool:
            """Whether workers save more time than they cost."""
            needed = min(self.start, START_AGAIN) if self._workers else self.start
            return count > 1 and seconds * (1 - here / count) >= needed

        def spread_rest(rest: Sequence[Item]) -> Iterator[Result]:
            """Yield the results of the rest, computed by the workers."""
            self._require(count, device)
            with tempfile.TemporaryDirectory() as folder:
                job = Path(folder) / "job"
                job.write_bytes(pack_job(function, device))
                crew = _Crew(self._workers[:count], job)
                try:
                    yield from spread(rest, crew)
                finally:
                    # Nobody waits any longer for what is still computed.
                    if crew.futures:
                        self.end()

        return begin_here(function, items, pays, spread_rest)

    def _count(self, device: torch.device, memory: int) -> int:
        """The number of processes that have a device and memory for an item each."""
        count = self.workers
        if device.type == "cuda":
            count = min(count, torch.cuda.device_count())
        available = available_memory()
        if memory and available is not None:
            count = min(count, available // memory)
        return count

    def _require(self, count: int, device: torch.device) -> None:
        """Start processes, unless they run."""
        for number in range(len(self._workers), count):
            # The workers are the command's own, and have its permission.
            variables = {**os.environ, ALLOW_CODE: "1"}
            if device.type == "cuda":
                variables["CUDA_VISIBLE_DEVICES"] = visible_gpus()[number]
            self._workers.append(_Worker(variables))


@dataclass
class _Worker:
    """A process, in a pool of its own: its end loses no work of others."""

    variables: Mapping[str, str]
    pool: ProcessPoolExecutor = field(init=False)
    process: Future[int] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.pool = ProcessPoolExecutor(
            1, mp_context=_context(), initializer=_begin_process, initargs=(self.variables,)
        )
        self.process = self.pool.submit(os.getpid)

    def end(self) -> None:
        """End the process, whatever it does."""
        with suppress(BrokenProcessPool, ProcessLookupError):
            if self.process.done():
                os.kill(self.process.result(), signal.SIGTERM)
        self.pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Begun:
    """An item that a worker has."""

    number: int
    item: Any
    worker: _Worker


@dataclass
class _Crew:
    """The workers on one job, which lies in a file.

    Attributes
    ----------
    workers, job
        The workers, and the file of the job.
    futures
        What is computed now.
    deaths
        The number of workers that have died while they had an item, by its number.
    """

    workers: Sequence[_Worker]
    job: Path
    futures: dict[Future[bytes], _Begun] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self.workers)

    def begin(self, number: int, item: Any) -> None:
        """Give an item to the worker that has the fewest."""
        loads = Counter(id(begun.worker) for begun in self.futures.values())
        worker = min(self.workers, key=lambda each: loads[id(each)])
        try:
            future = worker.pool.submit(_compute_from_file, self.job, item)
        except BrokenProcessPool:  # it has died meanwhile
            worker.start()
            future = worker.pool.submit(_compute_from_file, self.job, item)
        self.futures[future] = _Begun(number, item, worker)

    def collect(self) -> dict[int, bytes]:
        """Wait for some items; those of a worker that has died are begun again."""
        finished, _ = wait(self.futures, return_when=FIRST_COMPLETED)
        found, lost = {}, []
        # In the order in which they were begun.
        for future in [each for each in self.futures if each in finished]:
            begun = self.futures.pop(future)
            try:
                found[begun.number] = future.result()
            except BrokenProcessPool:
                lost.append(begun)
        dead: set[int] = set()
        for begun in lost:
            # Of the items of a dead worker, it computed the first; the others only waited.
            if id(begun.worker) not in dead:
                self._count_death(begun.number)
            dead.add(id(begun.worker))
            self.begin(begun.number, begun.item)
        return found

    def _count_death(self, number: int) -> None:
        """Count the death of a worker; raise a `WorkerError` where an item has cost too many."""
        self.deaths[number] += 1
        if self.deaths[number] >= MOST_DEATHS:
            raise WorkerError(
                f"{MOST_DEATHS} workers have ended while they had the same item of work.",
                "The system may have ended them for want of memory: take fewer workers. Start "
                "again: finished work is kept in the cache.",
            )


def available_memory() -> int | None:
    """The bytes of memory that new processes can have; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _context() -> Any:
    """The way to start processes.

    A server that has torch loaded forks each of them, where the system can fork safely.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _begin_process(variables: Mapping[str, str]) -> None:
    """Set up a worker: the environment of the command, and its end with the command."""
    os.environ.update(variables)
    # Ctrl+C reaches all processes of a terminal; the command ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    Thread(target=_end_with_command, daemon=True).start()


def _end_with_command() -> None:
    """End this process when the command has ended, however it did."""
    command = multiprocessing.parent_process()
    if command is not None:
        wait_for_end([command.sentinel])
        os._exit(1)


def _compute_from_file(job: Path, item: Any) -> bytes:
    """Compute an item of the job in a file."""
    return compute_item(_read_job(job), item)


@lru_cache(maxsize=1)
def _read_job(job: Path) -> bytes:
    return job.read_bytes()
