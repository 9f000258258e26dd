"""The registry of the clusters that a command can start, each imported when it is asked for."""

from __future__ import annotations

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
    """

    module: str
    name: str
    package: str


KINDS = {
    "ssh": Kind("distributed", "SSHCluster", "asyncssh"),
    "slurm": Kind("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "pbs": Kind("dask_jobqueue", "PBSCluster", "dask-jobqueue"),
    "lsf": Kind("dask_jobqueue", "LSFCluster", "dask-jobqueue"),
    "sge": Kind("dask_jobqueue", "SGECluster", "dask-jobqueue"),
    "htcondor": Kind("dask_jobqueue", "HTCondorCluster", "dask-jobqueue"),
    "kubernetes": Kind("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
}
"""The kinds of clusters that the command starts, besides ``scheduler``, which runs already."""


def start_cluster(path: Path, said: ClusterFile, more: Mapping[str, Any]) -> Any:
    """Start the cluster that a file describes.

    Parameters
    ----------
    path, said
        The file, and what it says.
    more
        Settings besides those of the file.

    Raises
    ------
    UsageError
        Its package is not installed, or does not take the settings.
    """
    kind = KINDS[said.kind]
    try:
        return getattr(import_module(kind.module), kind.name)(**said.settings, **more)
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
