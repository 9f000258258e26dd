"""One run on several processes and machines, connected by torch.distributed.

torchrun, or another launcher that sets its variables, starts the processes. The first process
(rank 0) runs the command, writes and prints. The others are helpers: they wait, and compute their
share of the items of work that the first process distributes. The items do not depend on the number
of processes, and results come back in the order of the items. So the numbers do not depend on the
number of processes.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.errors import EditError, WorkerError
from editspec_runtime.executors.devices import pick_device, reproducible_kernels
from editspec_runtime.maths.environment import machine_environment
from editspec_runtime.maths.parallel import count_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(days=30)
"""The time that a process waits for another. It is long because a rule may take long, and because
launchers end a run of which a process has died.
"""

MEETING = timedelta(minutes=30)
"""The time that the processes wait for each other at the start."""

PARTING = timedelta(seconds=3)
"""The time that the first process waits for the helpers to hear that the run ends."""

DEFECT = (
    "This is a defect of editspec if it occurs in a single process, too. Please report it if so."
)
GONE = "A worker has ended before its work was done."
START_AGAIN = (
    "The output of the worker or of the launcher may say why. Start again: finished work is kept "
    "in the cache."
)


@contextmanager
def lead_processes() -> Iterator[Executor]:
    """Give the executor of all processes, in the first of them.

    When the block ends, the helpers end with the exit code of this process.
    """
    team = _Team.meet()
    code = 0
    try:
        yield team
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException:
        code = 1
        raise
    finally:
        with suppress(RuntimeError):  # the helpers may be gone already
            team.tell("end", code)
            # The store may live in this process: it must not end before all have heard it.
            team.store.wait([f"end/{rank}" for rank in range(1, team.size)], PARTING)
        team.part()


def serve_first_process() -> int:
    """Compute what the first process distributes, in any other process.

    Returns the exit code of the first process when it ends.
    """
    try:
        team = _Team.meet()
        code = team.serve()
    except KeyboardInterrupt:
        return 130
    except EditError as error:  # there is no connection yet that could carry it
        print(
            f"error: worker {os.environ.get('RANK')} on {socket.gethostname()}: {error}",
            file=sys.stderr,
        )
        return 1
    except RuntimeError:
        # The first process or the connection is gone. The first process or the launcher says why.
        return 1
    team.part()
    return code


@dataclass(frozen=True)
class _Failure:
    """An error that was raised in a process."""

    error: Exception

    @staticmethod
    def of(error: Exception) -> _Failure:
        """Wrap an error so that it can travel.

        An error that does not pickle becomes a `WorkerError` with its first line.
        """
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return _Failure(WorkerError(f"{type(error).__name__}: {_first_line(error)}.", DEFECT))
        return _Failure(error)


@dataclass(frozen=True)
class _Shape:
    """The announcement of a tensor that is sent on its own."""

    shape: torch.Size
    dtype: torch.dtype


@dataclass
class _Team:
    """The processes of a run, seen from one of them; in the first one, their executor.

    Attributes
    ----------
    store
        The store that carries messages to all processes.
    rank, size
        The number of this process, and the number of processes.
    device
        The device of this process; None until the first work is distributed.
    messages
        The number of messages so far.
    busy
        Whether this process computes an item. Work inside an item is not distributed again.
    """

    store: Store
    rank: int
    size: int
    device: torch.device | None = None
    messages: int = 0
    busy: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return InProcess, ()

    @property
    def workers(self) -> int:
        """The number of processes that `map` uses."""
        return 1 if self.busy else self.size

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """Yield the result of `function` for every item, in order, over all processes.

        Of n processes, the first one computes items 0, n, 2n, …, the next one 1, n + 1, … If
        `device` is a GPU, helpers take the GPU of their ``LOCAL_RANK``. Raises as `Executor.map`;
        an error of a helper names the helper.
        """
        if self.busy or len(items) < 2:
            yield from map(function, items)
        else:
            yield from self.lead(function, items, device or torch.device("cpu"))

    @staticmethod
    def meet() -> _Team:
        """Find the other processes by the variables that the launcher sets."""
        try:
            store, rank, size = next(rendezvous("env://", timeout=MEETING))
        except (RuntimeError, ValueError) as error:
            raise WorkerError(
                "The processes of this run cannot find one another.",
                "The launcher must set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun "
                "does.",
            ) from error
        # When torchrun restarts the processes, its store still holds the messages from before.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return _Team(PrefixStore(f"editspec/{attempt}", store), rank, size)

    def tell(self, what: str, details: Any = None) -> None:
        """Tell all helpers what comes next.

        The message goes through the store, not through a collective operation: a helper may wait
        for hours, and waiting at the store takes no processor.
        """
        self.store.set(str(self.messages), json.dumps([what, details]))
        self.messages += 1

    def hear(self) -> tuple[str, Any]:
        """Wait for the next message of the first process."""
        key = str(self.messages)
        self.store.wait([key], PATIENCE)
        self.messages += 1
        what, details = json.loads(self.store.get(key))
        return what, details

    def lead(
        self, function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
    ) -> Iterator[Result]:
        """Distribute the items, in the first process."""
        try:
            if self.device is None:
                self.tell("join", {"device": device.type, "threads": count_threads()})
                self.connect(device)
            assert self.device is not None
            self.tell("job")
            dist.broadcast_object_list([_serialise((function, items))], src=0)
        except RuntimeError as error:
            raise WorkerError(GONE, START_AGAIN) from error
        for start in range(0, len(items), self.size):
            self.tell("round", start)
            count = min(self.size, len(items) - start)
            outcome = self.outcome(function, items[start])
            try:
                outcomes = self.gather(outcome, count)
            except RuntimeError as error:
                raise WorkerError(GONE, START_AGAIN) from error
            for rank, each in enumerate(outcomes):
                if isinstance(each, _Failure):
                    raise each.error if rank == 0 else _name_worker(each.error, rank)
                yield each

    def serve(self) -> int:
        """Follow the messages of the first process, and return its exit code."""
        function: Callable[[Any], Any] = _do_nothing
        items: Sequence[Any] = ()
        unfit: _Failure | None = None
        while True:
            what, details = self.hear()
            if what == "end":
                self.store.set(f"end/{self.rank}", "")
                return int(details)
            if what == "join":
                torch.set_num_threads(details["threads"])
                self.join(self.own_device(details["device"]))
            elif what == "job":
                packed: list[Any] = [None]
                dist.broadcast_object_list(packed, src=0)
                try:
                    (function, items), unfit = _deserialise(packed[0], self.device), None
                except Exception as error:
                    unfit = _Failure.of(error)
            else:
                number = details + self.rank
                outcome: Any = unfit
                if unfit is None and number < len(items):
                    outcome = self.outcome(function, items[number])
                # Gathering is collective: a helper without an item answers None, which the first
                # process drops.
                self.gather(outcome)

    def own_device(self, kind: str) -> torch.device:
        """Pick the CPU, or the GPU of this process. Raises `DeviceError` without one."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return pick_device("cpu" if kind == "cpu" else f"{kind}:{local}")

    def join(self, device: torch.device) -> None:
        """Connect all processes, by gloo between CPUs and by NCCL between GPUs."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
        )
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, {"on": socket.gethostname(), **machine_environment(device)})
        if self.rank == 0:
            _require_same(found)

    def connect(self, device: torch.device) -> None:
        """Call `join` in the first process. Raises `WorkerError` if that fails."""
        try:
            self.join(device)
        except RuntimeError as error:
            raise WorkerError(
                f"The workers cannot be connected{_describe_interface()}.",
                "Check that every worker still runs and that the network (of gloo, or of NCCL "
                "between GPUs) is set up: the output of the worker or of the launcher may say why.",
            ) from error

    def part(self) -> None:
        """Close the connections."""
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()

    def outcome(self, function: Callable[[Item], Result], item: Item) -> Result | _Failure:
        """Compute an item in this process, and return its result or its failure."""
        self.busy = True
        try:
            with reproducible_kernels(self.device or torch.device("cpu")):
                return function(item)
        except Exception as error:
            if self.rank == 0:
                return _Failure(error)
            return _Failure.of(error)
        finally:
            self.busy = False

    def gather(self, outcome: Any, count: int = 0) -> list[Any]:
        """Collect the outcomes of ranks 0 … count - 1 in the first process.

        The other processes get an empty list. Tensors are sent on their own, without being
        pickled.
        """
        alone = isinstance(outcome, Tensor)
        announced = _Shape(outcome.shape, outcome.dtype) if alone else _serialise(outcome)
        if self.rank:
            dist.gather_object(announced, None, dst=0)
            if alone:
                dist.send(outcome.to(self.device).contiguous(), dst=0)
            return []
        found: list[Any] = [None] * self.size
        dist.gather_object(announced, found, dst=0)
        outcomes = [outcome]
        for rank, each in enumerate(found[1:count], start=1):
            if isinstance(each, _Shape):
                received = torch.empty(each.shape, dtype=each.dtype, device=self.device)
                dist.recv(received, src=rank)
                outcomes.append(received)
            else:
                outcomes.append(_deserialise(each, self.device))
        return outcomes


def _serialise(value: object) -> bytes:
    """Serialise a value for another process of this run."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _do_nothing(item: Any) -> None:
    """Do nothing: the function before the first job."""


def _deserialise(data: bytes, device: torch.device | None) -> Any:
    """Read a value of another process of this run.

    Tensors from the GPU of that process come to the GPU of this one.
    """
    own = device if device is not None and device.type == "cuda" else torch.device("cpu")

    def place(storage: Any, location: str) -> Any:
        if location.startswith("cuda") and own.type == "cuda":
            return storage.cuda(own.index)
        return storage

    # Whole functions travel, so that weights_only is not possible. The bytes are from processes of
    # this run, which run the same code: they have no power that this process does not have.
    return torch.load(io.BytesIO(data), map_location=place, weights_only=False)


def _require_same(found: list[dict[str, str]]) -> None:
    """Raise a `WorkerError` unless all processes compute alike."""
    first = found[0]
    lines = []
    for rank, each in enumerate(found):
        for name, value in first.items():
            own = each.get(name, "-")
            if name != "on" and own != value:
                lines.append(
                    f"worker {rank} on {each['on']}: {name} {own}, and worker 0 has {value}"
                )
    if lines:
        raise WorkerError(
            "The workers compute in different environments, so that their numbers cannot be added "
            "up:\n  " + "\n  ".join(lines),
            "Start the run on machines with the same processors (or GPUs) and the same software.",
        )


def _name_worker(error: Exception, rank: int) -> Exception:
    """Make the error that the first process raises for the error of a helper."""
    if isinstance(error, EditError):
        error.message = f"worker {rank}: {error.message}"
        return error
    return WorkerError(
        f"worker {rank}: {type(error).__name__}: {_first_line(error)}.",
        DEFECT,
    )


def _describe_interface() -> str:
    """Describe the network interface that the environment names; empty without one."""
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        name = os.environ.get(variable)
        if name:
            return f" over the network interface {name}, which {variable} names"
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
