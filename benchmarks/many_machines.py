"""A run that no machine here can hold: the engine's own scheduler, with work replaced by waiting.

The command is ``python -m benchmarks.many_machines [--workers N] [--faster X]``. The workers are
threads of one process, whose items wait for as long as such an item takes, X times shorter. So
scheduler, connections and the order of results are real, and networks and disks are not.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import distributed
import torch

from editspec_runtime.executors.dask_cluster import DaskCluster

SPREAD = 0.05
"""The standard deviation of the time of an item, as a share of its mean."""

EMPTY = 2000
"""Items without work, by which the overhead of an item is measured."""


@dataclass(frozen=True)
class Job:
    """Many items of one kind.

    Attributes
    ----------
    name
        What they are.
    count
        How many there are.
    seconds
        How long one takes, as it was measured.
    """

    name: str
    count: int
    seconds: float


JOBS = (
    # 60 latents a second by one thread (docs/performance.md).
    Job("blocks of C, 10 million latents, StyleGAN2-256 layer8", 1024, 10_000_000 / 1024 / 60),
    Job("targets of 10,000 facts", 10_000, 2.0),
)


@dataclass(frozen=True)
class Outcome:
    """What a job took.

    Attributes
    ----------
    ideal, seconds
        The seconds that its waiting takes on all workers, and those that it took.
    """

    ideal: float
    seconds: float

    @property
    def efficiency(self) -> float:
        """The share of the workers' time that was spent on items."""
        return self.ideal / self.seconds


def wait(seconds: float) -> float:
    """Wait in place of work."""
    time.sleep(seconds)
    return seconds


def draw_times(job: Job, faster: float, count: int) -> list[float]:
    """Draw the seconds of `count` items of a job, `faster` times shorter; always the same ones."""
    draw = random.Random(1)
    mean = job.seconds / faster
    return [max(0.0, draw.gauss(mean, SPREAD * mean)) for _ in range(count)]


def run(
    executor: DaskCluster, times: Sequence[float], at_half: Callable[[], object] | None = None
) -> Outcome:
    """Run items on all workers; `at_half` is called when half of them are done."""
    workers = executor.workers
    begun = time.perf_counter()
    for number, (seconds, found) in enumerate(zip(times, executor.map(wait, times), strict=True)):
        assert found == seconds
        if number == len(times) // 2 and at_half is not None:
            at_half()
    return Outcome(sum(times) / workers, time.perf_counter() - begun)


def kill_worker(executor: DaskCluster) -> None:
    """End one worker with the item that it has."""
    worker = next(iter(executor.cluster.workers.values()))
    executor.client.sync(worker.close, executor_wait=False, nanny=False)


def simulate(workers: int, faster: float, share: float = 1.0) -> list[str]:
    """Simulate all jobs, of each a `share` of the items; return the lines of a table."""
    torch.set_num_threads(1)
    made = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
    )
    lines = [
        "| job | items | an item | ideal | simulated | efficiency |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    with DaskCluster(distributed.Client(made), made, start=0) as executor:
        empty = run(executor, [0.0] * max(2, round(EMPTY * share)))
        overhead = empty.seconds / max(2, round(EMPTY * share))
        for job in JOBS:
            times = draw_times(job, faster, max(2, round(job.count * share)))
            outcome = run(executor, times)
            lines.append(
                f"| {job.name} | {len(times)} | {job.seconds:.3g} s | "
                f"{outcome.ideal * faster:.0f} s | {outcome.seconds * faster:.0f} s | "
                f"{outcome.efficiency:.1%} |"
            )
        job = JOBS[0]
        times = draw_times(job, faster, max(2, round(job.count * share)))
        before = run(executor, times)
        after = run(executor, times, lambda: kill_worker(executor))
    lost = (after.seconds - before.seconds) * faster
    lines += [
        "",
        f"- {workers} workers; an item costs {1000 * overhead:.2f} ms besides its work.",
        f"- A worker that dies half-way costs {lost:.0f} s of {before.seconds * faster:.0f} s: "
        f"{lost / job.seconds:.2f} items of {job.seconds:.3g} s.",
    ]
    for job in JOBS:
        most = min(job.count, round(job.seconds / overhead))
        lines.append(f"- More than {most} workers do not help with {job.name}.")
    return lines


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description="Simulate a run on many machines.")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--faster", type=float, default=50.0)
    given = parser.parse_args()
    print("\n".join(simulate(given.workers, given.faster)))


if __name__ == "__main__":
    main()
