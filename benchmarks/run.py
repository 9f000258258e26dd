"""All benchmarks in one run.

The command is ``python -m benchmarks.run [--quick] [-o DIR] [MODULE…]``. Both sides of a ratio are
measured in turn in one run. The run writes performance.json and performance.md into DIR (default:
out/benchmarks) and prints the Markdown, which also says which benchmarks could not run and why. A
module of benchmarks/ takes part by its name in `MODULES` and a tuple `BENCHMARKS` of functions,
each of which takes `quick` and yields figures, or raises `CannotRun`.
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

MODULES = ("solvers", "scale", "growth", "threads", "workers", "concepts")


def main() -> None:
    """Run the benchmarks that the command line names, and write their figures."""
    parser = argparse.ArgumentParser(description="Run the benchmarks, and write their figures.")
    parser.add_argument(
        "modules", nargs="*", choices=[*MODULES, []], metavar="MODULE", help=", ".join(MODULES)
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats: under ten minutes on two cores"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("out/benchmarks"), metavar="DIR")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache: what an earlier run has solved would cost nothing.
        os.environ["EDITSPEC_CACHE"] = cache
        result = run_modules(given.modules or list(MODULES), given.quick)
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out / "performance.json", (json.dumps(result, indent=2) + "\n").encode())
    write(given.out / "performance.md", format_markdown(result).encode())
    print(format_markdown(result))


def run_modules(modules: list[str], quick: bool) -> dict[str, Any]:
    """Run the benchmarks of some modules; give their figures and what could not run."""
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
        "machine": describe_machine(),
        "quick": quick,
        "seconds": round(time.perf_counter() - begun, 1),
        "figures": [asdict(figure) for figure in figures],
        "could_not_run": missing,
    }


def describe_machine() -> dict[str, Any]:
    """Describe the machine in general terms."""
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


def format_markdown(result: dict[str, Any]) -> str:
    """Format a result of `run_modules` as Markdown."""
    lines = [_describe_run(result), ""]
    lines += ["| figure | measured | aim | reached |", "|---|---:|---|---|"]
    lines += [_format_row(figure) for figure in result["figures"]]
    lines.append("")
    lines += [f"Could not run: {name}: {why}." for name, why in result["could_not_run"].items()]
    lines.append("")
    for figure in result["figures"]:
        if figure["details"]:
            lines.append(f"- {figure['name']}: {_format_values(figure['details'])}")
    return "\n".join(lines) + "\n"


def _describe_run(result: dict[str, Any]) -> str:
    """Describe the machine, the mode and the duration of a run."""
    parts = []
    for name, value in result["machine"].items():
        if value is not None:
            parts.append(f"{name} {value}")
    mode = "quick, " if result["quick"] else ""
    return f"{', '.join(parts)}; {mode}{result['seconds']} s in all."


def _format_row(figure: dict[str, Any]) -> str:
    """Format a figure as a row of the table."""
    reached = {True: "yes", False: "**no**", None: ""}[figure["reached"]]
    value = f"{figure['value']:.3g} {figure['unit']}"
    return f"| {figure['name']} | {value} | {figure['aim']} | {reached} |"


def _format_values(values: dict[str, Any]) -> str:
    """Format named values, numbers with four digits."""
    parts = []
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
