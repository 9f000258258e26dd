"""Work as it travels to other processes, and what a worker makes of it.

A job is a function with the environment that its bits depend on. Each item of it is computed by one
thread of one worker. Jobs, items and results are pickled: whoever sends them can run any code in a
worker, and whoever computes them can run any code in the command.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, Protocol, TypeVar

import torch

from editspec_runtime.errors import (
    MORE_MEMORY,
    EditError,
    OutOfMemory,
    WorkerError,
    is_out_of_memory,
)
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.maths.environment import machine_environment

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""The items a worker has at a time: the one that it computes, and the next one."""

WAITING = 4
"""The items, from the due one on, that may be begun for each worker."""

MOST_DEATHS = 5
"""The workers that may die while they have one item."""

DEFECT = (
    "This is a defect of editspec if it occurs in a single process, too. Please report it if so."
)
SAME_MACHINES = (
    "Start the workers on machines with the same processors (or GPUs), and install the same "
    "versions everywhere."
)


@dataclass(frozen=True)
class Job:
    """A function on its way to workers.

    Attributes
    ----------
    function
        The pickled function. It is read only where the environment is the right one.
    device
        The kind of device that computes: ``cpu`` or ``cuda``.
    environment
        The environment of the command, by name.
    """

    function: bytes
    device: str
    environment: Mapping[str, str]

    def open(self) -> Callable[[Any], Any]:
        """Read the function in a worker.

        Raises `WorkerError` where the worker computes in another environment than the command.
        """
        found = find_environment(pick_device(self.device))
        if found != self.environment:
            raise misfit_error(self.environment, {describe_worker(): found})
        function: Callable[[Any], Any] = pickle.loads(self.function)
        return function


@dataclass(frozen=True)
class Failure:
    """An error on its way back to the command."""

    error: Exception

    @staticmethod
    def of(error: Exception) -> Failure:
        """Wrap an error so that it can travel.

        What no person can correct becomes a `WorkerError` that names the worker.
        """
        if is_out_of_memory(error):
            return Failure(OutOfMemory("An item does not fit into memory.", MORE_MEMORY))
        # An error of a spec has problems, each with its place.
        if isinstance(error, EditError) or hasattr(error, "problems"):
            return Failure(error)
        lines = str(error).splitlines() or ["no message"]
        reason = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        return Failure(WorkerError(f"{describe_worker()} failed: {reason}.", DEFECT))


def find_environment(device: torch.device) -> dict[str, str]:
    """Find what this process computes with on a device, as `machine_environment` does.

    The settings are those under which items are computed, whatever they are now.
    """
    with reproducible_kernels(device):
        return machine_environment(device)


def describe_worker() -> str:
    """Name this process among workers."""
    return f"worker {os.getpid()} on {socket.gethostname()}"


def pack_job(function: Callable[[Any], Any], device: torch.device) -> bytes:
    """Pack a function with the environment of this process."""
    job = Job(pickle.dumps(function), device.type, find_environment(device))
    return pickle.dumps(job)


def compute_item(packed: bytes, item: Any) -> bytes:
    """Compute an item of a job in a worker, and pack the result or the `Failure`."""
    try:
        function, device = _open_job(packed)
        with reproducible_kernels(device):
            return pickle.dumps(function(item), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps(Failure.of(error))


@lru_cache(maxsize=1)
def _open_job(packed: bytes) -> tuple[Callable[[Any], Any], torch.device]:
    """The function and the device of the last job, which a worker keeps."""
    torch.set_num_threads(1)
    job: Job = pickle.loads(packed)
    return job.open(), pick_device(job.device)


def misfit_error(wanted: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> WorkerError:
    """Make the error about workers, by name, whose environment is not the wanted one."""
    lines = []
    for worker, environment in found.items():
        for name, value in wanted.items():
            own = environment.get(name, "none")
            if own != value:
                lines.append(f"{worker}: {name} {own}, and the command has {value}")
    return WorkerError(
        "Workers compute in another environment, so that they would give other bits:\n  "
        + "\n  ".join(lines),
        SAME_MACHINES,
    )


class Crew(Protocol):
    """Workers that compute the items of one job."""

    @property
    def size(self) -> int:
        """The number of workers, which may change meanwhile."""
        ...

    def begin(self, number: int, item: Any) -> None:
        """Give an item to a worker."""
        ...

    def collect(self) -> Mapping[int, bytes]:
        """Wait for some items, and give what `compute_item` made of them, by number."""
        ...


def spread(items: Sequence[Any], crew: Crew) -> Iterator[Any]:
    """Yield the results of a crew in the order of the items.

    Each worker has `AHEAD` items, also while an item before them takes longer; but no more results
    wait than `WAITING` allows. Raises the error of an item when its turn comes.
    """
    done: dict[int, bytes] = {}
    begun = 0
    for due in range(len(items)):
        while due not in done:
            last = min(len(items), due + WAITING * crew.size)
            while begun < last and begun - due - len(done) < AHEAD * crew.size:
                crew.begin(begun, items[begun])
                begun += 1
            done |= crew.collect()
        result = pickle.loads(done.pop(due))
        if isinstance(result, Failure):
            raise result.error
        yield result


def begin_here(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    pays: Callable[[float], bool],
    spread_rest: Callable[[Sequence[Item]], Iterator[Result]],
) -> Iterator[Result]:
    """Yield the results in order, computed here as long as the rest is not worth spreading.

    Parameters
    ----------
    pays
        Whether work of so many seconds in this process is worth spreading. It is asked before each
        item, for the first one with 0.
    spread_rest
        Computes the rest elsewhere.
    """
    fastest: float | None = None
    for number, item in enumerate(items):
        left = len(items) - number
        # The fastest item counts, as the first one may open files or choose kernels.
        if left > 1 and pays(left * (fastest or 0.0)):
            yield from spread_rest(items[number:])
            return
        begun = perf_counter()
        result = function(item)
        spent = perf_counter() - begun
        fastest = spent if fastest is None else min(fastest, spent)
        yield result
