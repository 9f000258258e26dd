"""A run that no machine here can hold: the engine's own scheduler, with work replaced by waiting.

The command is ``python -m benchmarks.many_machines [--workers N]``, which takes two minutes. The
workers are threads of one process, whose items wait for as long as such an item takes, `FASTER`
times shorter. So scheduler, connections and the order of results are real, and networks and disks
are not. What the scheduler costs is not shortened with the waiting: it weighs so many times as much
as in a real run.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import dask
import distributed
import torch

from editspec_runtime.executors.dask_cluster import DaskCluster

SPREAD = 0.05
"""The standard deviation of the time of an item, as a share of its mean."""

EMPTY = 2000
"""Items without work, by which the overhead of an item is measured."""

FASTER = (20, 40, 80)
"""How many times shorter the items are by which the largest number of workers is found."""

ALONE = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "60s",
}
"""What a worker does for itself, which on a machine of its own costs the scheduler nothing."""

SECONDS = 3.0
"""How long each of these runs would take if nothing but waiting took time."""


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
    faster
        How many times shorter it waits.
    """

    name: str
    count: int
    seconds: float
    faster: float


# 38 latents a second by one thread (docs/performance.md).
BLOCKS = Job("blocks of C, 10 million latents", 1024, 10_000_000 / 1024 / 38, 400)
# 16 evaluations of SmolLM2-135M, by one thread (docs/facts.md).
TARGETS = Job("targets of 10,000 facts", 10_000, 16 * 0.73, 60)


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


def draw_times(seconds: float, count: int) -> list[float]:
    """Draw the seconds of `count` items with this mean; always the same ones."""
    draw = random.Random(1)
    return [max(0.0, draw.gauss(seconds, SPREAD * seconds)) for _ in range(count)]


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


def describe_jobs(executor: DaskCluster, share: float) -> Iterator[str]:
    """Yield the lines of a table of the jobs, and what a death costs."""
    yield "| job | items | an item | waiting alone | simulated | efficiency |"
    yield "|---|--:|--:|--:|--:|--:|"
    for job in (BLOCKS, TARGETS):
        times = draw_times(job.seconds / job.faster, round(job.count * share))
        outcome = run(executor, times)
        if job is BLOCKS:
            whole = outcome
        yield (
            f"| {job.name} | {len(times)} | {job.seconds:.3g} s | "
            f"{outcome.ideal * job.faster:.0f} s | {outcome.seconds * job.faster:.0f} s | "
            f"{outcome.efficiency:.1%} |"
        )
    times = draw_times(BLOCKS.seconds / BLOCKS.faster, round(BLOCKS.count * share))
    left = run(executor, times, lambda: kill_worker(executor))
    lost = (left.seconds - whole.seconds) * BLOCKS.faster
    yield ""
    yield (
        f"A worker that dies half-way, and does not come back, costs {lost:.0f} s of "
        f"{whole.seconds * BLOCKS.faster:.0f} s: {lost / BLOCKS.seconds:.2f} items."
    )


def describe_limit(executor: DaskCluster, share: float) -> Iterator[str]:
    """Yield the lines of a table of how many items the scheduler hands out.

    Workers whose items are X times shorter ask for as many as X times as many workers.
    """
    count = max(2, round(EMPTY * share))
    empty = run(executor, [0.0] * count)
    yield f"An item without work takes {1000 * empty.seconds / count:.2f} ms."
    yield ""
    yield "| as many workers as | items a second | efficiency |"
    yield "|--:|--:|--:|"
    for faster in FASTER:
        seconds = TARGETS.seconds / faster
        times = draw_times(seconds, max(2, round(SECONDS * share * executor.workers / seconds)))
        outcome = run(executor, times)
        rate = len(times) / outcome.seconds
        yield f"| {executor.workers * faster} | {rate:.0f} | {outcome.efficiency:.1%} |"


def simulate(workers: int, share: float = 1.0) -> Iterator[str]:
    """Simulate all jobs, of each a `share` of the items; yield the lines of the report."""
    torch.set_num_threads(1)
    with dask.config.set(ALONE):
        made = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
        )
        with DaskCluster(distributed.Client(made), made, start=0) as executor:
            yield from describe_limit(executor, share)
            yield ""
            yield from describe_jobs(executor, share)


def main() -> None:
    """Simulate, and print tables."""
    parser = argparse.ArgumentParser(description="Simulate a run on many machines.")
    parser.add_argument("--workers", type=int, default=64)
    given = parser.parse_args()
    for line in simulate(given.workers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
