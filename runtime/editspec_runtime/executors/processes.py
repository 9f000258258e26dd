"""One run on several processes and machines: torch.distributed, started by torchrun or whatever
sets its variables.

The first process (rank 0) runs the command, writes and prints. The others are helpers: they wait,
and do their share of the items of work that the first one spreads. What is spread does not depend
on how many there are, and results come back in the order of the items, so that the numbers do not
depend on it either.
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

from editspec_runtime import __version__
from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.errors import EditError, WorkerError
from editspec_runtime.executors.devices import pick_device, reproducible_kernels

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = timedelta(days=30)
"""How long one process waits for another: a rule may take long, and launchers end what has died."""

MEETING = timedelta(minutes=30)
"""How long they wait for one another to start."""

PARTING = timedelta(seconds=3)
"""How long the first process waits for the others to have heard that it ends."""

GONE = "A worker has ended before its work was done."
START_AGAIN = "What it or the launcher printed may say why. Start again: what is done already is kept in the cache."


@contextmanager
def leading() -> Iterator[Executor]:
    """In the first of several processes, give the executor of all of them.

    Afterwards the helpers end with the exit code of this process.
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
        with suppress(RuntimeError):  # the helpers are gone already
            team.tell("end", code)
            # The way to them may end with this process.
            team.store.wait([f"end/{rank}" for rank in range(1, team.size)], PARTING)
        team.part()


def help_out() -> int:
    """In any other process: do what the first one spreads until it ends, and give its exit code."""
    try:
        team = _Team.meet()
        code = team.serve()
    except KeyboardInterrupt:
        return 130
    except EditError as error:  # before there is a way to tell it to the first process
        print(
            f"error: worker {os.environ.get('RANK')} on {socket.gethostname()}: {error}",
            file=sys.stderr,
        )
        return 1
    except RuntimeError:
        # The first process, or the way to it, is gone; it or the launcher says why.
        return 1
    team.part()
    return code


@dataclass(frozen=True)
class _Failure:
    """What was raised in a process."""

    error: Exception

    @staticmethod
    def of(error: Exception) -> _Failure:
        """An error as another process can take it: as it is where it pickles, else what it says."""
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return _Failure(WorkerError(f"{type(error).__name__}: {_first_line(error)}."))
        return _Failure(error)


@dataclass(frozen=True)
class _Shape:
    """Stands for a tensor that follows by itself."""

    shape: torch.Size
    dtype: torch.dtype


@dataclass
class _Team:
    """The processes of a run, as one of them sees them; the first one has their executor.

    Attributes
    ----------
    store
        The way to say something to all of them.
    rank, size
        The number of this process, and how many there are.
    device
        Where this one computes; None until the first work is spread.
    said
        How many messages there were.
    busy
        Whether this process computes an item: within one, nothing is spread any further.
    """

    store: Store
    rank: int
    size: int
    device: torch.device | None = None
    said: int = 0
    busy: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return InProcess, ()

    @property
    def workers(self) -> int:
        """How many processes `map` has."""
        return 1 if self.busy else self.size

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        device: torch.device | None = None,
    ) -> Iterator[Result]:
        """Yield what `function` gives for every item, in order, over all processes.

        The first process does items 0, n, 2n, … of n processes, the next one 1, n + 1, … Helpers
        take the GPU of their ``LOCAL_RANK`` where `device` is a GPU. Raises as `Executor.map`; an
        error of a helper names it.
        """
        if self.busy or len(items) < 2:
            yield from map(function, items)
        else:
            yield from self.lead(function, items, device or torch.device("cpu"))

    @staticmethod
    def meet() -> _Team:
        """Find the others by the launcher's variables."""
        try:
            store, rank, size = next(rendezvous("env://", timeout=MEETING))
        except (RuntimeError, ValueError) as error:
            raise WorkerError(
                f"The processes of this run cannot find one another: {_first_line(error)}.",
                "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are the launcher's to set; torchrun does.",
            ) from error
        # Where torchrun starts the processes again, its store still holds what was said before.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return _Team(PrefixStore(f"editspec/{attempt}", store), rank, size)

    def tell(self, what: str, details: Any = None) -> None:
        """Say to all helpers what comes next. Told through the store: a helper may wait for hours,
        and uses nothing.
        """
        self.store.set(str(self.said), json.dumps([what, details]))
        self.said += 1

    def hear(self) -> tuple[str, Any]:
        """What the first process says next."""
        key = str(self.said)
        self.store.wait([key], PATIENCE)
        self.said += 1
        what, details = json.loads(self.store.get(key))
        return what, details

    def lead(
        self, function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
    ) -> Iterator[Result]:
        """Spread the items, in the first process."""
        try:
            if self.device is None:
                self.tell("join", {"device": device.type, "threads": torch.get_num_threads()})
                self.connect(device)
            assert self.device is not None
            self.tell("job")
            dist.broadcast_object_list([_pack((function, items))], src=0)
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
        """Do what the first process says, until it says that it ends, and with which exit code."""
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
                    (function, items), unfit = _unpack(packed[0], self.device), None
                except Exception as error:
                    unfit = _Failure.of(error)
            else:
                number = details + self.rank
                # Every helper answers in every round; where there is no item left for it, its
                # answer counts nothing.
                self.gather(
                    unfit
                    or (self.outcome(function, items[number]) if number < len(items) else None)
                )

    def own_device(self, kind: str) -> torch.device:
        """The CPU, or the GPU of this process. Raises `DeviceError` where there is none."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return pick_device("cpu" if kind == "cpu" else f"{kind}:{local}")

    def join(self, device: torch.device) -> None:
        """Connect all processes: gloo between CPUs, and NCCL between GPUs."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
        )
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, {"on": socket.gethostname(), **_environment(device)})
        if self.rank == 0:
            _require_same(found)

    def connect(self, device: torch.device) -> None:
        """`join`, in the first process, which says why it cannot."""
        try:
            self.join(device)
        except RuntimeError as error:
            raise WorkerError(
                f"The workers cannot be connected: {_first_line(error)}.",
                "A worker has ended, or its network (of gloo, or of NCCL between GPUs) is not set up: what it or the "
                "launcher printed may say why.",
            ) from error

    def part(self) -> None:
        """Close the connections."""
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()

    def outcome(self, function: Callable[[Item], Result], item: Item) -> Result | _Failure:
        """What the function gives or raises, in this process alone."""
        self.busy = True
        try:
            with reproducible_kernels(self.device or torch.device("cpu")):
                return function(item)
        except Exception as error:
            return _Failure(error) if self.rank == 0 else _Failure.of(error)
        finally:
            self.busy = False

    def gather(self, outcome: Any, count: int = 0) -> list[Any]:
        """The outcomes of ranks 0 … count - 1 in the first process; nothing in the others. Tensors
        go by themselves.
        """
        alone = isinstance(outcome, Tensor)
        announced = _Shape(outcome.shape, outcome.dtype) if alone else _pack(outcome)
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
                outcomes.append(_unpack(each, self.device))
        return outcomes


def _pack(value: object) -> bytes:
    """A value for another process of this run."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _do_nothing(item: Any) -> None:
    """What there is to do before there is a job."""


def _unpack(data: bytes, device: torch.device | None) -> Any:
    """A value of another process of this run, what was on its GPU on the GPU of this one."""
    own = device if device is not None and device.type == "cuda" else torch.device("cpu")

    def place(storage: Any, location: str) -> Any:
        return (
            storage.cuda(own.index)
            if location.startswith("cuda") and own.type == "cuda"
            else storage
        )

    return torch.load(io.BytesIO(data), map_location=place, weights_only=False)


def _environment(device: torch.device) -> dict[str, str]:
    """What the bits may depend on beside the inputs, by name."""
    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    threads = str(torch.get_num_threads())
    return {
        "editspec": __version__,
        "torch": torch.__version__,
        device.type: kind,
        "threads": threads,
    }


def _require_same(found: list[dict[str, str]]) -> None:
    """Raise a `WorkerError` unless all processes compute alike."""
    first = found[0]
    others = [
        f"worker {rank} on {each['on']}: {name} {each.get(name, '-')}, and worker 0 has {first[name]}"
        for rank, each in enumerate(found)
        for name in first
        if name != "on" and each.get(name) != first[name]
    ]
    if others:
        raise WorkerError(
            "The workers compute in different environments, and their numbers could not be added up:\n  "
            + "\n  ".join(others),
            "Start the run on machines with the same processors (or GPUs) and the same software.",
        )


def _name_worker(error: Exception, rank: int) -> Exception:
    """An error of a helper, as the first process raises it."""
    if isinstance(error, EditError):
        error.message = f"worker {rank}: {error.message}"
        return error
    return WorkerError(
        f"worker {rank}: {type(error).__name__}: {_first_line(error)}.",
        "This is a defect of editspec, unless a single process says otherwise. Please report it.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
