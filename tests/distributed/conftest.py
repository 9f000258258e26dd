"""Executors to which all work goes, and the folder of a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import pytest

from editspec_runtime.executors.dask_cluster import DaskCluster, open_cluster
from editspec_runtime.executors.local import LocalProcesses
from tests.spreading import write_specs


@pytest.fixture(scope="package")
def processes() -> Iterator[LocalProcesses]:
    """Four processes, to which all work goes."""
    with LocalProcesses(4, start=0) as executor:
        yield executor


@pytest.fixture(scope="package")
def cluster() -> Iterator[DaskCluster]:
    """A cluster of two processes, to which all work goes."""
    with open_cluster("local:2", start=0) as executor:
        yield executor


@pytest.fixture
def threads() -> Iterator[DaskCluster]:
    """A scheduler with one worker, which is a thread of this process."""
    made = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    )
    with DaskCluster(distributed.Client(made), made, start=0, patience=2) as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_specs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def emptied(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Makes another empty cache."""

    def make() -> Path:
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("EDITSPEC_CACHE", str(cache))
        return cache

    return make
