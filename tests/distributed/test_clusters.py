"""Clusters and workers that are not as they should be are named within seconds."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import distributed
import pytest
import torch

from benchmarks import many_machines
from benchmarks.many_machines import draw_times
from benchmarks.many_machines import run as simulate_job
from editspec.cli.workers import use_workers
from editspec_runtime.errors import (
    EditError,
    UsageError,
    WorkerError,
)
from editspec_runtime.executors import cluster_registry, dask_cluster, dask_crew, work
from editspec_runtime.executors.dask_cluster import DaskCluster, open_cluster
from editspec_runtime.executors.registry import open_executor
from editspec_runtime.executors.work import Failure, compute_item, pack_job
from tests.spreading import PATIENCE
from tests.workers import Noted, fail

pytestmark = [
    # The engine's own threads close their sockets when they end, which may be after a test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_another_environment_is_refused_by_name(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_job(fail, torch.device("cpu"))
    job = pickle.loads(packed)
    job = dataclasses.replace(job, environment={**job.environment, "torch": "1.0"})
    outcome = pickle.loads(compute_item(pickle.dumps(job), "well"))
    assert isinstance(outcome, Failure)
    assert f"torch {torch.__version__}, and the command has 1.0" in str(outcome.error)
    assert f"worker {os.getpid()} on" in str(outcome.error)

    wanted = dask_cluster.find_environment(torch.device("cpu"))
    own = {**wanted, "device": "cpu AVX9"}
    monkeypatch.setattr(dask_cluster, "_environment", _other_environment)
    monkeypatch.setattr(dask_cluster, "find_environment", lambda device: own)
    with pytest.raises(WorkerError, match="cpu AVX9") as found:
        list(threads.map(fail, ["well", "well"]))
    assert "worker inproc://" in found.value.message
    assert pickle.loads(compute_item(packed, "well")) == "well"


def _other_environment(device: str) -> dict[str, str]:
    return work.find_environment(torch.device(device))


def test_the_simulation_waits_as_long_as_it_says(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = draw_times(0.02, 20)
    assert times == draw_times(0.02, 20)
    assert abs(sum(times) / len(times) - 0.02) < 0.002
    outcome = simulate_job(threads, times)
    assert outcome.ideal == pytest.approx(sum(times))
    assert outcome.ideal <= outcome.seconds < PATIENCE
    # Half a second of each job, of which two workers do half each.
    monkeypatch.setattr(many_machines, "FASTER", (20,))
    report = list(many_machines.simulate(2, 0.002))
    assert [line for line in report if line.startswith("| 40 |")]
    assert [line for line in report if line.startswith("| targets of 10,000 facts | 20 | 11.7 s |")]


def test_bad_clusters_are_named_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text("kind: mainframe\n")
    (tmp_path / "key.yaml").write_text("kind: ssh\nhosts: [a]\n")
    (tmp_path / "broken.yaml").write_text("kind: [\n")
    (tmp_path / "many.yaml").write_text("kind: slurm\nworkers: many\n")
    (tmp_path / "hosts.yaml").write_text("kind: ssh\nworkers: 4\nsettings: {hosts: [a, b]}\n")
    (tmp_path / "tls.yaml").write_text("kind: scheduler\naddress: tls://a:1\ntls: {ca: a.pem}\n")
    (tmp_path / "slurm.yaml").write_text("kind: slurm\nworkers: 2\n")
    (tmp_path / "ssh.yaml").write_text("kind: ssh\nsettings: {nothing: 1}\n")
    for text, kind, words in (
        ("tcp://127.0.0.1:1", WorkerError, "No scheduler answers at tcp://127.0.0.1:1"),
        ("mail://someone", UsageError, "not an address"),
        ("local:0", UsageError, "how many workers"),
        ("local:many", UsageError, "how many workers"),
        ("nowhere.yaml", UsageError, "neither a file nor an address"),
        ("kind.yaml", UsageError, "no kind mainframe"),
        ("key.yaml", UsageError, "no key hosts"),
        ("broken.yaml", EditError, "broken.yaml cannot be read"),
        ("many.yaml", UsageError, "workers is many"),
        ("hosts.yaml", UsageError, "workers does not belong to kind ssh"),
        ("tls.yaml", UsageError, "tls must have"),
        ("slurm.yaml", UsageError, "needs dask-jobqueue"),
        ("ssh.yaml", UsageError, "SSHCluster does not start"),
    ):
        begun = time.monotonic()
        place = str(tmp_path / text) if text.endswith(".yaml") else text
        with pytest.raises(kind, match=words):
            open_cluster(place)
        assert time.monotonic() - begun < PATIENCE / 4
    with pytest.raises(UsageError, match="given together"):
        open_executor(2, "local:2")


class Refused(distributed.deploy.spec.ProcessInterface):
    """A job that no queue takes."""

    async def start(self) -> None:
        raise FileNotFoundError("sbatch")


class Queue(distributed.SpecCluster):
    """A cluster whose jobs no queue takes."""

    def __init__(self, **settings: Any) -> None:
        scheduler = {"cls": distributed.Scheduler, "options": {"dashboard": False, **settings}}
        super().__init__(scheduler=scheduler, worker={"cls": Refused, "options": {}})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("program", "words"), [(None, "sbatch is not here to take"), ("/bin/true", "does not take")]
)
def test_a_queue_that_takes_no_jobs_is_named(
    program: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("dask_jobqueue")
    module.SLURMCluster = Queue  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    monkeypatch.setattr(cluster_registry, "SUBMISSION", 0.5)
    monkeypatch.setattr(shutil, "which", lambda name: program)
    (tmp_path / "slurm.yaml").write_text("kind: slurm\nworkers: 2\nsettings: {port: 0}\n")
    begun = time.monotonic()
    with pytest.raises(UsageError, match=words):
        open_cluster(str(tmp_path / "slurm.yaml"))
    assert time.monotonic() - begun < PATIENCE / 4


def test_the_address_of_the_dashboard_is_shown(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: None)
    assert threads.dashboard == ""  # nothing is drawn there
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: name)
    assert re.fullmatch(r"http://.+:\d+/status", threads.dashboard)
    monkeypatch.setattr(
        "editspec_runtime.executors.registry.open_executor", lambda *_: nullcontext(threads)
    )
    for terminal, shown in ((True, f"1 worker: {threads.dashboard}\n"), (False, "")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=terminal: answer)
        with use_workers(None, "local:1"):
            pass
        assert capsys.readouterr().err == shown


def test_who_ends_early_cancels_in_a_cluster(threads: DaskCluster, tmp_path: Path) -> None:
    work = Noted(tmp_path / "log", 0.2)
    results = threads.map(work, range(100))
    assert next(results) == 0
    results.close()
    scheduler = threads.cluster.scheduler
    end = time.monotonic() + PATIENCE
    while scheduler.tasks and time.monotonic() < end:
        time.sleep(0.01)
    assert not scheduler.tasks
    assert len(work.begun()) <= 4


def test_workers_without_memory_or_gpu_are_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    # What an item needs, and a worker before it, is 80 % of a worker's memory at the most.
    with pytest.raises(WorkerError, match=r"1250000\.50 GB.* the largest of 1 may take"):
        list(threads.map(fail, ["well", "well"], memory=10**15))
    assert time.monotonic() - begun < PATIENCE / 4
    monkeypatch.setattr(dask_crew, "pack_job", lambda function, device: b"")
    with pytest.raises(WorkerError, match="says that it has a GPU"):
        list(threads.map(fail, ["well", "well"], torch.device("cuda")))


def test_workers_that_have_paused_are_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0

    def pause(dask_worker: distributed.Worker) -> None:
        """Pause a worker, for good: it would go on when it looks at its memory next."""
        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = distributed.Status.paused

    threads.client.run(pause)
    with pytest.raises(WorkerError, match="All workers have paused for 2 seconds"):
        list(results)


@pytest.mark.parametrize(("gpus", "own"), [([], None), (["3", "5"], "5"), (["3"], "")])
def test_a_worker_of_this_machine_has_one_gpu_or_none(
    gpus: list[str], own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "visible_gpus", lambda: gpus)
    settings = dask_cluster.own_device(1)
    assert settings["env"].get("CUDA_VISIBLE_DEVICES") == own
    assert settings.get("resources") == (None if own is None else {"GPU": len(own)})


def test_a_scheduler_without_workers_or_that_dies_is_named(
    threads: DaskCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dask_cluster, "FIRST", 0.5)
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0
    threads.cluster.scale(0)
    with pytest.raises(WorkerError, match="All workers have ended"):
        list(results)
    with pytest.raises(WorkerError, match="has no worker"):
        open_cluster(threads.client.scheduler.address)
    threads.cluster.scale(1)
    threads.client.wait_for_workers(1, timeout=PATIENCE)
    results = threads.map(Noted(tmp_path / "log", 0.05), range(1000))
    assert next(results) == 0
    threads.cluster.close()
    with pytest.raises(WorkerError, match=r"The scheduler at .* is gone"):
        list(results)
