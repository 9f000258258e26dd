"""The registry of the clusters that a command can start, each imported when it is asked for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from editspec_runtime.errors import UsageError
from editspec_runtime.executors.cluster_file import ClusterFile


@dataclass(frozen=True)
class Kind:
    """A kind of cluster that a file may name.

    Attributes
    ----------
    module, name
        The class that starts it.
    package
        The package to install for it.
    submits
        The program that takes its jobs; empty where it has none.
    """

    module: str
    name: str
    package: str
    submits: str = ""


def _queue(name: str, submits: str) -> Kind:
    return Kind("dask_jobqueue", name, "dask-jobqueue", submits)


KINDS = {
    "ssh": Kind("distributed", "SSHCluster", "asyncssh"),
    "slurm": _queue("SLURMCluster", "sbatch"),
    "pbs": _queue("PBSCluster", "qsub"),
    "lsf": _queue("LSFCluster", "bsub"),
    "sge": _queue("SGECluster", "qsub"),
    "htcondor": _queue("HTCondorCluster", "condor_submit"),
    "kubernetes": Kind("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
}
"""The kinds of clusters that the command starts, besides ``scheduler``, which runs already."""

SUBMISSION = 15.0
"""The seconds in which a queue has to take the jobs."""

PULSE = 0.1
"""The seconds between two looks at them."""


def start_cluster(path: Path, said: ClusterFile, more: Mapping[str, Any]) -> Any:
    """Start the cluster that a file describes, and its workers.

    Parameters
    ----------
    path, said
        The file, and what it says.
    more
        Settings besides those of the file.

    Raises
    ------
    UsageError
        Its package is not installed, or does not take the settings, or no queue takes its jobs.
    """
    kind = KINDS[said.kind]
    try:
        cluster = getattr(import_module(kind.module), kind.name)(**said.settings, **more)
    except ImportError as error:
        raise UsageError(
            f"{path}: a cluster of kind {said.kind} needs {kind.package}, which is not installed.",
            f"pip install {kind.package}",
        ) from error
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise UsageError(
            f"{path}: {kind.name} does not start with these settings ({type(error).__name__}).",
            f"The documentation of {kind.package} lists the settings of {kind.name}.",
        ) from error
    if said.workers:
        cluster.scale(said.workers)
        _require_submitted(path, kind, cluster)
    return cluster


def _require_submitted(path: Path, kind: Kind, cluster: Any) -> None:
    """Raise a `UsageError` where no queue takes the jobs of a cluster, which is then closed."""
    end = time.monotonic() + SUBMISSION
    while kind.submits and not _is_submitted(cluster):
        if time.monotonic() < end and shutil.which(kind.submits):
            time.sleep(PULSE)
            continue
        cluster.close()
        found = "does not take" if shutil.which(kind.submits) else "is not here to take"
        raise UsageError(
            f"{path}: {kind.submits} {found} the jobs of {kind.name}.",
            f"Run the command where {kind.submits} works by hand, and check settings.",
        )


def _is_submitted(cluster: Any) -> bool:
    """Whether a queue has taken all jobs of a cluster."""
    running = [name for name, job in cluster.workers.items() if job.status.name == "running"]
    return set(cluster.worker_spec) == set(running)
