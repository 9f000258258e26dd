"""The work of two processes against that of one, and builds as the defaults spread them.

All are timed by the clock, so that the machine has to have nothing else to do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.figures import Figure
from benchmarks.scale import write_rule
from editspec.commands.statistics import statistics
from editspec.engine.built import TARGETS
from editspec.engine.resources import use_executor
from editspec.engine.session import BuildSession
from editspec.worlds.atlas.world import RELATIONS, facts
from editspec_runtime.core.progress import no_progress
from editspec_runtime.executors.local import LocalProcesses
from editspec_runtime.io.cache import VARIABLE
from editspec_runtime.io.digests import tensor_digest

LEAST = 1.85
"""How many times as fast two workers are to be."""

WARM = range(4)
"""Items that start the processes."""

FACTS = 200
"""The facts whose targets are searched."""

SPECS = Path(__file__).parents[1] / "specs"
RECIPES = {
    "skyline/dome_to_spire.yaml": 2,
    "atlas/hundred_facts.yaml": 2,
    "atlas/one_fact.yaml": 4,
}
QUICK_RECIPES = {"skyline/dark_windows_to_lit.yaml": 1, "atlas/one_fact.yaml": 3}
"""The specs that are built, and how often; the fastest build counts."""

MOST = 1.05
"""How many times as long a build may take by the defaults."""

ATLAS = """
version: 1
model: {family: transformer, weights: builtin:atlas}
edits:
  - name: many
    layer: layer1
    pairs: {file: rows.jsonl}
    solver: least-squares
"""

Timed = tuple[float, str]
"""The seconds of some work, and the digest of what came out."""


def moments(quick: bool) -> Iterator[Figure]:
    """Measure C of Skyline's layer7 by one and by two processes of one thread."""
    samples = 8192 if quick else 32_768
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rule(folder, samples)
        yield from compare(folder, f"C of {samples} latents", time_moment)


def targets(quick: bool) -> Iterator[Figure]:
    """Measure the targets of facts of Atlas by one and by two processes of one thread."""
    del quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "atlas.yaml").write_text(ATLAS)
        write_rows(folder / "rows.jsonl", FACTS)
        yield from compare(folder, f"targets of {FACTS} facts of Atlas", time_targets)


def write_rows(path: Path, count: int) -> None:
    """Write facts of people of Atlas, each with another answer than the right one."""
    chance = random.Random(19)
    rows = []
    for fact in facts()[:count]:
        relation = RELATIONS[fact.relation]
        others = [answer for answer in relation.answers if answer != fact.answer]
        row = {
            "prompt": relation.phrasings[0],
            "subject": fact.subject,
            "text": chance.choice(others),
        }
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")


def time_moment(folder: Path) -> Timed:
    """Time ``editspec statistics``."""
    begun = time.perf_counter()
    (found,) = statistics(folder / "rule.yaml", device="cpu").moments
    return time.perf_counter() - begun, tensor_digest(found.moment.matrix)


def time_targets(folder: Path) -> Timed:
    """Time the stage ``targets`` of an edit: the search for the values of all its facts."""
    session = BuildSession.of(folder / "atlas.yaml", "cpu", no_progress)
    (rule,) = session.rule(0, session.current_model()).rules
    return session.spent[TARGETS], tensor_digest(rule.value)


def compare(folder: Path, name: str, work: Callable[[Path], Timed]) -> Iterator[Figure]:
    """Measure work by one and by two processes with an empty cache."""
    seconds, digests = [], set()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for count in (1, 2):
        os.environ[VARIABLE] = str(folder / f"cache-{count}")
        with LocalProcesses(count, start=0) as executor:
            begun = time.perf_counter()
            assert list(executor.map(abs, WARM)) == list(WARM)
            starting = time.perf_counter() - begun
            with use_executor(executor):
                spent, digest = work(folder)
        seconds.append(spent)
        digests.add(digest)
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


def recipes(quick: bool) -> Iterator[Figure]:
    """Measure builds of recipes as the defaults spread them, against one process."""
    for recipe, turns in (QUICK_RECIPES if quick else RECIPES).items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "specs"
            shutil.copytree((SPECS / recipe).parent, folder)
            spec = folder / Path(recipe).name
            seconds: dict[str, list[float]] = {"one process": [], "defaults": []}
            for _ in range(turns):
                for label, chosen in (("one process", ["--workers", "1"]), ("defaults", [])):
                    seconds[label].append(time_build(spec, chosen))
        least = {label: min(each) for label, each in seconds.items()}
        share = least["defaults"] / least["one process"]
        yield Figure.at_most(f"build of {recipe} by the defaults", share, MOST, "times", **least)


def time_build(spec: Path, options: Sequence[str]) -> float:
    """Time ``editspec build`` with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "editspec", "build", spec, "-o", f"{name}/out", *options]
        begun = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            env={**os.environ, VARIABLE: f"{name}/cache"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        spent = time.perf_counter() - begun
    spec.with_name(f"{spec.name}.lock").unlink()
    return spent


BENCHMARKS = (moments, targets, recipes)
