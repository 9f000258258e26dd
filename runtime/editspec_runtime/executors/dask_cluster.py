"""A cluster of Dask: a scheduler, and workers that may join and leave while work goes on."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import dask
import torch
from distributed import Client, LocalCluster, Security
from distributed.system import MEMORY_LIMIT
from distributed.utils import get_mp_context

from editspec_runtime.core.executor import InProcess
from editspec_runtime.errors import EditError, UsageError, WorkerError
from editspec_runtime.executors.cluster_file import read_cluster_file
from editspec_runtime.executors.cluster_registry import KINDS, start_cluster
from editspec_runtime.executors.dask_crew import ANSWER, LOST, Crew
from editspec_runtime.executors.devices import pick_device, visible_gpus
from editspec_runtime.executors.work import (
    MOST_DEATHS,
    begin_here,
    find_environment,
    misfit_error,
    spread,
)
from editspec_runtime.io.foreign_code import ALLOW_CODE

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 1.0
"""The seconds that must be saved before work goes to the cluster."""

FIRST = 15.0
"""The seconds in which a scheduler that runs has to have a worker."""

PATIENCE, PATIENCE_OF_QUEUES = 60.0, 3600.0
"""The seconds without any worker after which a run ends; the second where workers queue first."""

LIBRARIES = 400_000_000
"""The bytes that a worker takes before its first item."""

PAUSE = 0.8
"""The share of its limit above which a worker takes no further item."""

LINUX = sys.platform == "linux"
"""Whether processes can be forked from a server that has torch loaded."""


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
        """The address of the page on which the engine shows what the workers do.

        It is empty where the command has started the cluster, and the page cannot be drawn.
        """
        if self.cluster is not None and find_spec("bokeh") is None:
            return ""
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
            crew = Crew(self.client, function, device, allowed, self.patience)
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
        least = (LIBRARIES + memory) / PAUSE
        fitting = [name for name, limit in limits.items() if not limit or limit >= least]
        if not fitting:
            raise WorkerError(
                f"No worker has the memory that an item of this work needs, {least / 1e9:.2f} GB: "
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
            n_workers=0,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            memory_limit=MEMORY_LIMIT // int(count),
        )
        for number in range(int(count)):
            options = cluster.new_spec["options"] | own_device(number)
            cluster.new_spec = {**cluster.new_spec, "options": options}
            cluster.scale(number + 1)
        client = Client(cluster)
        client.wait_for_workers(int(count))
    return DaskCluster(client, cluster, start)


def own_device(number: int) -> dict[str, Any]:
    """Make the settings of worker `number` of this machine, from 0: one GPU, where there are."""
    # The workers are the command's own, and have its permission.
    environment, gpus = {ALLOW_CODE: "1"}, visible_gpus()
    if not gpus:
        return {"env": environment}
    own = gpus[number : number + 1]
    environment["CUDA_VISIBLE_DEVICES"] = "".join(own)
    return {"env": environment, "resources": {"GPU": len(own)}}


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
    return DaskCluster(Client(cluster), cluster, start, PATIENCE_OF_QUEUES)


def _environment(device: str) -> dict[str, str]:
    """The environment of a worker."""
    return find_environment(pick_device(device))
