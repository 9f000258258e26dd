"""The file that describes a cluster for ``--cluster``."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from editspec_runtime.errors import UsageError, reading_foreign

SCHEDULER = "scheduler"
"""The kind of a cluster that runs already, and is reached at an address."""

SSH = "ssh"
"""The kind whose settings say how many workers there are, and where."""

KEYS = ("kind", "workers", "settings", "address", "tls")
TLS_KEYS = ("ca", "certificate", "key")


@dataclass(frozen=True)
class ClusterFile:
    """A cluster as a file describes it.

    Attributes
    ----------
    kind
        The kind of the cluster.
    workers
        The number of workers to start; 0 where they run already, or the settings say it.
    settings
        The settings of the kind.
    address
        The address of a scheduler that runs; empty for all other kinds.
    tls
        The files ``ca``, ``certificate`` and ``key``, from the folder of the file; may be empty.
    """

    kind: str
    workers: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""
    tls: Mapping[str, str] = field(default_factory=dict)


def read_cluster_file(path: Path, kinds: Iterable[str]) -> ClusterFile:
    """Read the description of a cluster of one of some kinds, and check it.

    Raises `UsageError` where it is wrong.
    """
    kinds = [SCHEDULER, *kinds]
    if not path.is_file():
        raise UsageError(
            f"--cluster {path} is neither a file nor an address.",
            "Give local:N, tcp://HOST:PORT, or a file that describes a cluster.",
        )
    with reading_foreign(path):
        content = yaml.safe_load(path.read_text())
    problem = _find_problem(content, kinds)
    if problem:
        raise UsageError(
            f"{path}: {problem}.",
            f"Write kind: (one of {', '.join(kinds)}), workers: and settings:, or address: and "
            "tls:.",
        )
    return ClusterFile(**content)


def _find_problem(content: Any, kinds: Container[str]) -> str:
    """Say what is wrong with the description of a cluster; empty where nothing is."""
    if not isinstance(content, dict):
        return "it holds no mapping"
    unknown = [str(key) for key in content if key not in KEYS]
    if unknown:
        return f"there is no key {unknown[0]}"
    kind = content.get("kind")
    if kind is None:
        return "kind is missing"
    if not isinstance(kind, str) or kind not in kinds:
        return f"there is no kind {kind}"
    return _find_value_problem(kind, content)


def _find_value_problem(kind: str, content: Mapping[str, Any]) -> str:
    """Say what is wrong with the values besides the kind; empty where nothing is."""
    if (kind == SCHEDULER) != isinstance(content.get("address"), str):
        return f"address belongs to kind {SCHEDULER}, and must be there"
    workers = content.get("workers", 1)
    if type(workers) is not int or workers < 1:
        return f"workers is {workers}, and must be a number from 1"
    if kind in (SCHEDULER, SSH) and "workers" in content:
        return f"workers does not belong to kind {kind}"
    settings = content.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        return "settings is not a mapping"
    tls = content.get("tls", dict.fromkeys(TLS_KEYS, ""))
    if not isinstance(tls, dict) or set(tls) != set(TLS_KEYS):
        return f"tls must have {', '.join(TLS_KEYS)}"
    if not all(isinstance(name, str) for name in tls.values()):
        return "tls names files"
    return ""
