"""Parts computed at once against operations shared by threads, with the same number of threads.

Operations that threads share are what libraries do unless they are told not to; their bits depend
on the number of threads. Each command is run both ways, in turn in one run, each time as a process
of its own with an empty cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.solvers import make_large_project

THREADS = 2
RECIPES = Path(__file__).parents[1] / "specs" / "skyline"

SHARED = """
from contextlib import contextmanager
from editspec_runtime.executors import devices
from editspec_runtime.maths import parallel

@contextmanager
def shared_operations():
    yield

devices.unshared_operations = parallel.unshared_operations = shared_operations
parallel.count_threads = lambda: 1
from editspec.cli.main import main
main()
"""
"""The command line where all threads share every operation, and one part follows the other."""

WAYS = {"parts": ["-m", "editspec"], "shared": ["-c", SHARED]}
"""The arguments of Python for each way."""

SOLVERS: tuple[dict[str, Any], ...] = (
    {"method": "projected-gradient", "steps": 201, "learning_rate": 0.05, "project_every": 10},
    {"method": "direct", "steps": 2001},
    {"method": "least-squares", "collateral_weight": 0.05},
)


def recipes(quick: bool) -> Iterator[Figure]:
    """Build each recipe of Skyline both ways."""
    turns = 2 if quick else 5
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "specs"
        shutil.copytree(RECIPES, place)
        for path in sorted(place.glob("*.yaml")):
            spent: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(turns):
                for way, seconds in spent.items():
                    seconds.append(build(path, way)[0])
            least = {way: min(seconds) for way, seconds in spent.items()}
            ratio = least["shared"] / least["parts"]
            yield Figure.at_least(f"build of {path.stem}, {THREADS} threads", ratio, 1, **least)


def moments(quick: bool) -> Iterator[Figure]:
    """Take C of layer8 of StyleGAN2-256 both ways."""
    with tempfile.TemporaryDirectory() as name:
        project = make_large_project(Path(name), samples=256)
        path = project.write_spec(SOLVERS[-1])
        ratio, least = compare(path, "statistics", 2 if quick else 5)
    name = f"statistics of StyleGAN2-256 layer8, {THREADS} threads"
    yield Figure.at_least(name, ratio, 1, **least)


def solvers(quick: bool) -> Iterator[Figure]:
    """Solve a rule at layer8 of StyleGAN2-256 both ways.

    There is no aim: each step needs the one before, and few products are worth being cut.
    """
    with tempfile.TemporaryDirectory() as name:
        project = make_large_project(Path(name), samples=16)
        for solver in SOLVERS:
            path = project.write_spec(solver)
            ratio, least = compare(path, "solve", 3 if quick else 5)
            name = f"{solver['method']}, StyleGAN2-256 layer8, {THREADS} threads"
            yield Figure(name, ratio, "times", details=least)


def compare(spec: Path, stage: str, turns: int) -> tuple[float, dict[str, float]]:
    """Build a spec of one edit both ways, in turn.

    Returns how many times as fast a stage is by parts, and its least seconds by both ways.
    """
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(turns):
        for way, seconds in spent.items():
            _, (edit,) = build(spec, way)
            seconds.append(edit["seconds"][stage])
    least = {way: min(seconds) for way, seconds in spent.items()}
    return least["shared"] / least["parts"], least


def build(spec: Path, way: str) -> tuple[float, list[dict[str, Any]]]:
    """Build a spec one way, with nothing in the cache.

    Returns the seconds of the whole process, and the edits of ``build --json``.
    """
    folder = spec.parent
    out, cache = folder / "out", folder / "cache"
    for left in (out, cache):
        shutil.rmtree(left, ignore_errors=True)
    spec.with_name(f"{spec.name}.lock").unlink(missing_ok=True)
    options = ["--threads", str(THREADS), "--json", "--device", "cpu"]
    command = [sys.executable, *WAYS[way], "build", str(spec), "-o", str(out), *options]
    variables = {"EDITSPEC_CACHE": str(cache), "OMP_NUM_THREADS": str(THREADS)}
    begun = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    seconds = time.perf_counter() - begun
    if result.returncode:
        sys.exit(result.stderr)
    return seconds, json.loads(result.stdout)["edits"]


BENCHMARKS = (recipes, moments, solvers)
