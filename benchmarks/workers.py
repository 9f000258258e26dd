"""The work of two processes against that of one, and the seconds until they work.

All are timed by the clock, so that the machine has to have nothing else to do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.figures import Figure
from benchmarks.scale import write_rule
from editspec.commands.statistics import statistics
from editspec.engine.resources import use_executor
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.io.cache import VARIABLE
from editspec_runtime.io.digests import tensor_digest

LEAST = 1.85
"""How many times as fast two workers are to be."""

WARM = range(4)
"""Items that start the processes."""


def moments(quick: bool) -> Iterator[Figure]:
    """Measure C of Skyline's layer7 by one and by two processes of one thread."""
    samples = 8192 if quick else 32_768
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rule(folder, samples)
        yield from compare(folder, "C", lambda: _moment_digest(folder / "rule.yaml"))


def _moment_digest(spec: Path) -> str:
    (found,) = statistics(spec, device="cpu").moments
    return tensor_digest(found.moment.matrix)


def compare(folder: Path, name: str, work: Callable[[], str]) -> Iterator[Figure]:
    """Measure work, which returns a digest, by one and by two processes with an empty cache."""
    seconds, digests = [], set()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for count in (1, 2):
        os.environ[VARIABLE] = str(folder / f"cache-{count}")
        with LocalProcesses(count, start=0) as executor:
            begun = time.perf_counter()
            assert list(executor.map(abs, WARM)) == list(WARM)
            starting = time.perf_counter() - begun
            begun = time.perf_counter()
            with use_executor(executor):
                digests.add(work())
            seconds.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    # The number of processes must not change a bit.
    assert len(digests) == 1
    one, two = seconds
    details = {"one": one, "two": two, "start": starting, "load": os.getloadavg()[0]}
    yield Figure(
        f"{name} by two workers, against one",
        one / two,
        "times",
        f"at least {LEAST}",
        one / two >= LEAST,
        details,
    )


BENCHMARKS = (moments,)
