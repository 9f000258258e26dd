"""The registry of executors, each imported when it is asked for. Imports no torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module

from editspec_runtime.core.executor import Executor
from editspec_runtime.errors import UsageError
from editspec_runtime.io.extra_registry import load_extra

PROCESSES = "editspec_runtime.executors.local"
"""The module of processes of this machine; that of a cluster is an extra."""


def open_executor(
    workers: int | None = None, cluster: str | None = None
) -> AbstractContextManager[Executor]:
    """Make the executor that ``--workers`` and ``--cluster`` name, as a context that ends it.

    Parameters
    ----------
    workers
        The number of processes of this machine. Default: what the machine has.
    cluster
        ``local:N``, the address of a scheduler, or a file that describes a cluster. Default: none.

    Raises
    ------
    UsageError
        Both are given, the cluster is not well described, or its packages are not installed.
    WorkerError
        The cluster does not answer.
    """
    if cluster is None:
        made: AbstractContextManager[Executor] = import_module(PROCESSES).LocalProcesses(workers)
        return made
    if workers is not None:
        raise UsageError(
            "--workers and --cluster are given together.",
            "Give --workers for processes of this machine, or --cluster for those of a cluster.",
        )
    opened: AbstractContextManager[Executor] = load_extra("cluster").open_cluster(cluster)
    return opened
