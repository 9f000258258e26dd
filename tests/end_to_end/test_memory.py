"""The bounds of memory that docs/performance.md states, at a StyleGAN2 of 1024 x 1024 pixels;
processes, measured.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.stylegan2_1024 import (
    COLD,
    LAYERS,
    TABLE,
    Row,
    Workplace,
    measure_peak,
    read_rows,
)
from editspec.cli.main import app

ROWS = read_rows()
QUICK = [(row, LAYERS[0]) for row in ROWS if row.limits and not row.mark]
ALL = [(row, layer) for row in ROWS for layer in row.limits]
FIRST = ("build SPEC", "export SMOOTH --format record", "apply PATCH --model BASE -o EDITED")
"""What others need: run before them, in this order."""


def measure_peaks(folder: Path, jobs: list[tuple[Row, str]]) -> dict[tuple[str, str], float]:
    """Measure what commands take, in MiB, by command and layer."""
    place = Workplace(folder)
    place.prepare()
    measured = {}

    def measure(job: tuple[Row, str]) -> None:
        row, layer = job
        measured[row.command, layer] = place.measure_peak(row, layer)

    with ThreadPoolExecutor(2) as pool:
        for command in FIRST:
            list(pool.map(measure, [job for job in jobs if job[0].command.startswith(command)]))
        list(pool.map(measure, [job for job in jobs if not job[0].command.startswith(FIRST)]))
    return measured


def read_share_of_torch() -> int:
    """The MiB that the docs state for torch itself, in its build for CPUs."""
    stated = re.search(r"torch (\d+) MiB", TABLE.read_text())
    assert stated is not None
    return int(stated[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param(QUICK, id="of every kind"),
        pytest.param(ALL, id="all", marks=pytest.mark.long),
    ],
)
def test_commands_keep_within_their_bounds(jobs: list[tuple[Row, str]], tmp_path: Path) -> None:
    wrong = []
    peaks = measure_peaks(tmp_path, jobs)
    stated = read_share_of_torch()
    # The build for CUDA takes more than the one for CPUs, whatever a command does with it.
    torch_alone = measure_peak([sys.executable, "-c", "import torch"], tmp_path)
    excess = max(0, round(torch_alone) - stated)
    for row, layer in jobs:
        found, bound = peaks[row.command, layer], row.limits[layer]
        if bound > stated:
            bound += excess
        # A bound that nobody would come near says nothing.
        if not found <= bound < 2 * found + 50:
            wrong.append(f"editspec {row.command}, {layer}: {found:.0f} MiB, and not {bound}")
    assert not wrong, "\n".join(wrong)


def test_every_command_is_in_the_table() -> None:
    known = set()
    for command in app.registered_commands:
        assert command.callback is not None
        known.add(command.name or command.callback.__name__)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for each in group.typer_instance.registered_commands:
            assert each.callback is not None
            name = each.name or each.callback.__name__.replace("_", "-")
            known.add(f"{group.typer_instance.info.name} {name}")
    told = {
        " ".join(
            row.command.split()[: 2 if row.command.startswith(("ci ", "bench ", "git ")) else 1]
        )
        for row in ROWS
    }
    assert told == known
    unmeasured = {row.command.split()[0] for row in ROWS if not row.limits}
    others = {"init", "card", "git", "push", "studio", "bench"}
    assert unmeasured == {"tune"} | others
    assert set(COLD) <= known


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
def test_what_a_process_holds_is_what_is_measured(tmp_path: Path) -> None:
    bound = next(row for row in ROWS if row.command == "validate SPEC").limits["layer10"]
    held = bytearray(b"1" * (300 << 20))  # of the process that measures, which does not count
    lean = measure_peak([sys.executable, "-c", "pass"], tmp_path)
    fat = measure_peak(
        [sys.executable, "-c", f"held = bytearray(b'1' * ({bound} << 20))"], tmp_path
    )
    assert lean < bound < fat < 3 * bound
    # What it let go of counts.
    assert (
        measure_peak(
            [sys.executable, "-c", f"held = bytearray(b'1' * ({bound} << 20)); del held"], tmp_path
        )
        > bound
    )
    with pytest.raises(RuntimeError, match="ended with 3:\nsaid"):
        measure_peak(
            [sys.executable, "-c", "import sys; print('said', file=sys.stderr); sys.exit(3)"],
            tmp_path,
        )
    assert len(held) == 300 << 20
