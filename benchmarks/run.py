"""All benchmarks in one run: ``python -m benchmarks.run [--quick] [-o DIR] [MODULE…]``.

Every ratio is of two things measured in turn in this run. Writes performance.json and
performance.md into DIR (default: out/benchmarks), prints the Markdown, and says of what could not
run why. A module of benchmarks/ takes part by its name in `MODULES` and a tuple `BENCHMARKS` of
functions, each of which takes `quick` and yields figures, or raises `CannotRun`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import CannotRun, Figure
from editspec_runtime.io.files import write

MODULES = ("solvers", "scale", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "modules", nargs="*", choices=[*MODULES, []], metavar="MODULE", help=", ".join(MODULES)
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats: under ten minutes on two cores"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("out/benchmarks"), metavar="DIR")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EDITSPEC_CACHE"] = cache
        result = measured(given.modules or list(MODULES), given.quick)
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out / "performance.json", (json.dumps(result, indent=2) + "\n").encode())
    write(given.out / "performance.md", markdown(result).encode())
    print(markdown(result))


def measured(modules: list[str], quick: bool) -> dict[str, Any]:
    """The figures of some modules, and what could not run."""
    figures: list[Figure] = []
    missing: dict[str, str] = {}
    begun = time.perf_counter()
    for module in modules:
        for benchmark in importlib.import_module(f"benchmarks.{module}").BENCHMARKS:
            name = f"{module}.{benchmark.__name__}"
            print(f"{name}: {benchmark.__doc__.splitlines()[0]}", file=sys.stderr, flush=True)
            try:
                figures += benchmark(quick)
            except CannotRun as why:
                missing[name] = str(why)
    return {
        "machine": machine(),
        "quick": quick,
        "seconds": round(time.perf_counter() - begun, 1),
        "figures": [asdict(figure) for figure in figures],
        "could_not_run": missing,
    }


def machine() -> dict[str, Any]:
    """The machine in general terms."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": gpu,
    }


def markdown(result: dict[str, Any]) -> str:
    """The same as a page."""
    said = ", ".join(
        f"{name} {value}" for name, value in result["machine"].items() if value is not None
    )
    lines = [f"{said}; {'quick, ' if result['quick'] else ''}{result['seconds']} s in all.", ""]
    lines += ["| figure | measured | aim | reached |", "|---|---:|---|---|"]
    for figure in result["figures"]:
        reached = {True: "yes", False: "**no**", None: ""}[figure["reached"]]
        lines.append(
            f"| {figure['name']} | {figure['value']:.3g} {figure['unit']} | {figure['aim']} | {reached} |"
        )
    lines += [
        "",
        *(f"Could not run: {name}: {why}." for name, why in result["could_not_run"].items()),
        "",
    ]
    for figure in result["figures"]:
        if figure["details"]:
            details = ", ".join(
                f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}"
                for n, v in figure["details"].items()
            )
            lines.append(f"- {figure['name']}: {details}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
