"""A cluster of Dask: a scheduler, and workers that may join and leave while work goes on."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import dask
import torch
from distributed import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    Security,
    WorkerPlugin,
    get_worker,
    wait,
)
from distributed.client import ClosedClientError
from distributed.utils import get_mp_context

from editspec_runtime.core.executor import InProcess
from editspec_runtime.errors import EditError, UsageError, WorkerError
from editspec_runtime.executors.cluster_file import read_cluster_file
from editspec_runtime.executors.cluster_registry import KINDS, start_cluster
from editspec_runtime.executors.devices import pick_device
from editspec_runtime.executors.work import (
    MOST_DEATHS,
    begin_here,
    compute_item,
    find_environment,
    misfit_error,
    pack_job,
    spread,
)
from editspec_runtime.io.foreign_code import ALLOW_CODE

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 1.0
"""The seconds that must be saved before work goes to the cluster."""

ANSWER = 5.0
"""The seconds in which a scheduler has to answer."""

FIRST = 15.0
"""The seconds in which a scheduler that runs has to have a worker."""

PATIENCE, PATIENCE_OF_QUEUES = 60.0, 3600.0
"""The seconds without any worker after which a run ends; the second where workers queue first."""

PULSE = 1.0
"""The seconds between two looks at the cluster."""

LINUX = sys.platform == "linux"
"""Whether processes can be forked from a server that has torch loaded."""

LOST = (OSError, TimeoutError, CancelledError, ClosedClientError)
"""The errors of a connection to a scheduler that is gone."""

START_AGAIN = "Start again: finished work is kept in the cache."


class DaskCluster:
    """An executor that spreads work over the workers of a Dask cluster.

    As a context, it closes the connection, and the cluster if the command has started it.

    Parameters
    ----------
    client
        The connection to the scheduler.
    cluster
        A cluster that ends with this executor; None where others own it.
    start
        The seconds that must be saved before work goes to the cluster.
    patience
        The seconds without any worker after which a run ends.
    """

    def __init__(
        self,
        client: Client,
        cluster: Any = None,
        start: float = START,
        patience: float = PATIENCE,
    ) -> None:
        self.client = client
        self.cluster = cluster
        self.start = start
        self.patience = patience

    def __reduce__(self) -> tuple[Any, ...]:
        return InProcess, ()

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(*LOST):
            self.client.close(timeout=ANSWER)
            if self.cluster is not None:
                self.cluster.close(timeout=ANSWER)

    @property
    def workers(self) -> int:
        """The number of workers that have joined."""
        return max(1, len(self.client.nthreads()))

    @property
    def dashboard(self) -> str:
        """The address of the page on which the engine shows what the workers do."""
        return str(self.client.dashboard_link)

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

        Items are computed here until it is known that the rest takes long enough.
        """
        del threaded
        device = device or torch.device("cpu")

        def pays(seconds: float) -> bool:
            """Whether the cluster saves more time than it costs."""
            return seconds >= self.start

        def spread_rest(rest: Sequence[Item]) -> Iterator[Result]:
            """Yield the results of the rest, computed by the workers."""
            require_workers(self.client, self.patience)
            allowed = self._allowed(device, memory)
            self._require_same(device)
            crew = _Crew(self.client, function, device, allowed, self.patience)
            try:
                yield from spread(rest, crew)
            finally:
                crew.end()

        return begin_here(function, items, pays, spread_rest)

    def _allowed(self, device: torch.device, memory: int) -> list[str] | None:
        """The addresses of the workers that can do an item; None where all can.

        Raises `WorkerError` where none can.
        """
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        if device.type == "cuda":
            with_gpu = [name for name, each in known.items() if each["resources"].get("GPU")]
            if not with_gpu:
                raise WorkerError(
                    f"None of the {len(known)} workers says that it has a GPU.",
                    "Start one worker for each GPU, with --nthreads 1 --resources GPU=1.",
                )
            known = {name: known[name] for name in with_gpu}
        limits = {name: each["memory_limit"] or 0 for name, each in known.items()}
        fitting = [name for name, limit in limits.items() if not limit or limit >= memory]
        if not fitting:
            raise WorkerError(
                f"No worker has the memory that an item of this work needs, {memory / 1e9:.2f} GB: "
                f"the largest of {len(limits)} may take {max(limits.values()) / 1e9:.2f} GB.",
                "Start workers with a larger --memory-limit, or in the file of the cluster with "
                "more memory.",
            )
        # Without a restriction, workers that join later take part, too.
        return None if len(fitting) == len(limits) else fitting

    def _require_same(self, device: torch.device) -> None:
        """Raise a `WorkerError` that names the workers of another environment."""
        wanted = find_environment(device)
        found = self.client.run(_environment, device.type, on_error="return")
        odd = {}
        for worker, environment in found.items():
            if isinstance(environment, ImportError):
                missing = (environment.name or "editspec").partition(".")[0]
                raise WorkerError(
                    f"The worker {worker} lacks the package {missing}.",
                    "Install editspec with the extra cluster for the Python of the workers, in the "
                    "version of the command.",
                )
            if isinstance(environment, EditError):
                raise environment
            if isinstance(environment, Exception):
                kind = type(environment).__name__
                raise WorkerError(
                    f"The worker {worker} cannot say what it computes with ({kind}).",
                    "Install the same version of editspec for the workers as for the command.",
                )
            if environment != wanted:
                odd[f"worker {worker}"] = environment
        if odd:
            raise misfit_error(wanted, odd)


@dataclass
class _Crew:
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
    """

    client: Client
    function: Callable[[Any], Any]
    device: torch.device
    allowed: list[str] | None
    patience: float
    futures: dict[Future, tuple[int, Any]] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"editspec-{uuid.uuid4().hex[:12]}")
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
            raise _gone(self.client)
        try:
            present = self.client.nthreads()
        except LOST as error:
            raise _gone(self.client) from error
        usable = set(present) if self.allowed is None else set(present) & set(self.allowed)
        self.count, self.looked = max(1, len(usable)), now
        if usable:
            self.alone_since = None
            return
        self.alone_since = self.alone_since or now
        if now - self.alone_since > self.patience:
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
            raise _gone(self.client) from error
        self.futures[future] = number, item

    def collect(self) -> Mapping[int, bytes]:
        """Wait for some items; the engine gives those of a worker that dies to others."""
        found: dict[int, bytes] = {}
        while not found:
            with suppress(*LOST):
                wait(list(self.futures), timeout=PULSE, return_when="FIRST_COMPLETED")
            by_status: dict[str, list[Future]] = {}
            for future in self.futures:
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


def open_cluster(text: str, *, start: float = START) -> DaskCluster:
    """Connect to the cluster that ``--cluster`` names, or start it.

    Parameters
    ----------
    text
        ``local:N``, the address of a scheduler (``tcp://…``, ``tls://…``), or a file that
        describes a cluster.
    start
        The seconds that must be saved before work goes to the cluster.

    Raises
    ------
    UsageError
        The text or the file is wrong, or a package is not installed.
    WorkerError
        Nobody answers, or no worker is there.
    """
    # What the engine says of workers that come and go is for those who run it.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="distributed")
    if text.startswith("local:"):
        return _open_local(text.removeprefix("local:"), start)
    if "://" in text:
        return _connect(text, None, start)
    return _open_file(Path(text), start)


def _open_local(count: str, start: float) -> DaskCluster:
    """Start workers on this machine, with a scheduler that only this machine reaches."""
    if not count.isdecimal() or not int(count):
        raise UsageError(
            f"--cluster local:{count} does not say how many workers are wanted.",
            "Write a number, such as local:4.",
        )
    settings = {
        "distributed.worker.multiprocessing-method": "forkserver" if LINUX else "spawn",
        "distributed.scheduler.allowed-failures": MOST_DEATHS,
    }
    with dask.config.set(settings):
        if LINUX:
            # After the engine has named its own packages; a worker then has torch at once.
            get_mp_context().set_forkserver_preload(["__main__", __name__])
        cluster = LocalCluster(
            n_workers=int(count),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            # The workers are the command's own, and have its permission.
            env={ALLOW_CODE: "1"},
        )
    return DaskCluster(Client(cluster), cluster, start)


def _connect(address: str, security: Security | None, start: float) -> DaskCluster:
    """Connect to a scheduler that runs."""
    try:
        client = Client(address, timeout=ANSWER, security=security)
    except ValueError as error:
        raise UsageError(
            f"{address} is not an address of a scheduler.",
            "Write tcp://HOST:PORT, as the scheduler prints it.",
        ) from error
    except TypeError as error:
        raise UsageError(
            f"{address} needs certificates.",
            "Give a file to --cluster, with kind: scheduler, address: and tls:.",
        ) from error
    except (OSError, TimeoutError) as error:
        raise WorkerError(
            f"No scheduler answers at {address}.",
            "Start one (dask scheduler), and check the address, the network, and for tls:// the "
            "certificates.",
        ) from error
    require_workers(client, FIRST)
    return DaskCluster(client, None, start)


def require_workers(client: Client, patience: float) -> None:
    """Wait for a worker. Raises `WorkerError` where none joins."""
    try:
        client.wait_for_workers(1, timeout=patience)
    except (OSError, TimeoutError) as error:
        address = client.scheduler.address if client.scheduler else "its address"
        raise WorkerError(
            f"The scheduler at {address} has no worker.",
            f"Start some: dask worker {address} --nthreads 1.",
        ) from error


def _open_file(path: Path, start: float) -> DaskCluster:
    """Start or reach the cluster that a file describes."""
    said = read_cluster_file(path, KINDS)
    security = None
    if said.tls:
        security = Security(
            tls_ca_file=str(path.parent / said.tls["ca"]),
            tls_client_cert=str(path.parent / said.tls["certificate"]),
            tls_client_key=str(path.parent / said.tls["key"]),
            require_encryption=True,
        )
    if said.address:
        return _connect(said.address, security, start)
    cluster = start_cluster(path, said, {} if security is None else {"security": security})
    if said.workers:
        cluster.scale(said.workers)
    return DaskCluster(Client(cluster), cluster, start, PATIENCE_OF_QUEUES)


def _gone(client: Client) -> WorkerError:
    """The error about a scheduler that does not answer any longer."""
    address = client.scheduler.address if client.scheduler else "the address"
    return WorkerError(f"The scheduler at {address} is gone.", START_AGAIN)


def _environment(device: str) -> dict[str, str]:
    """The environment of a worker."""
    return find_environment(pick_device(device))


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
