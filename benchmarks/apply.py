"""A patch applied to 4 GB against cp: ``python benchmarks/apply.py [FOLDER]``.

Both read the same file. Prints the time of both, each with its sync, and the peak memory of the
process that applies.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from editspec_runtime.io.digests import rows_digest, tensor_row
from editspec_runtime.patches.patch import make_patch
from editspec_runtime.patches.rounding import round_once

TENSORS, ROWS, COLUMNS = 200, 2560, 2048
"""200 float32 tensors of 20 MiB: 4.2 GB."""

CHILD = """
import json, os, resource, subprocess, sys, time
from editspec.commands.apply import apply
work, base, patch, out = sys.argv[1:]
begun = time.perf_counter()
if work == "cp":
    subprocess.run(["cp", base, out], check=True)
    os.sync()
else:
    apply(base, [patch], out)
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""
"""The program of the child process.

cp runs in such a process, too, so that both begin in the same state: on a virtual machine, memory
that was freed seconds ago costs more to take than memory that was freed just now.
"""

RUNS = 5


def main() -> None:
    """Measure several times, and print each run and the median of the ratios."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        base, patch = Path(folder, "base.safetensors"), Path(folder, "patch.safetensors")
        write_inputs(base, patch)
        bound = 1.5 * ROWS * COLUMNS * 4 / 2**20 + 300
        ratios = []
        for attempt in range(RUNS):
            out = Path(folder, "out.safetensors")
            copied = measure("cp", base, patch, out)
            applied = measure("apply", base, patch, out)
            ratios.append(applied["seconds"] / copied["seconds"])
            print(
                f"run {attempt + 1}: {base.stat().st_size / 1e9:.2f} GB; "
                f"cp and sync {copied['seconds']:.2f} s; "
                f"apply and sync {applied['seconds']:.2f} s ({ratios[-1]:.2f} times; "
                f"{applied['cpu']:.1f} s of CPU); "
                f"peak {applied['peak'] / 1024:.0f} MiB, the bound is {bound:.0f} MiB",
                flush=True,
            )
        print(f"median of the ratios: {statistics.median(ratios):.2f}; the bound is 1.5")


def measure(work: str, base: Path, patch: Path, out: Path) -> dict[str, float]:
    """Measure the seconds and the memory of ``cp`` or ``apply``, each with its sync."""
    os.sync()
    command = [sys.executable, "-c", CHILD, work, *map(str, (base, patch, out))]
    result = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, float] = json.loads(result.stdout)
    out.unlink()
    return found


def write_inputs(base: Path, patch: Path) -> None:
    """Write a checkpoint tensor by tensor, and a patch of one of its tensors."""
    header, size = {}, ROWS * COLUMNS * 4
    for number in range(TENSORS):
        offsets = [number * size, (number + 1) * size]
        header[f"layer{number}.weight"] = {
            "dtype": "F32",
            "shape": [ROWS, COLUMNS],
            "data_offsets": offsets,
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(COLUMNS, 4, generator=generator))[0].T.contiguous()
    coefficients = torch.randn(ROWS, 4, generator=generator)
    before, after = [], []
    with base.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number in range(TENSORS):
            weight = torch.randn(ROWS, COLUMNS, generator=generator)
            file.write(weight.numpy().tobytes())
            before.append(tensor_row(f"layer{number}.weight", weight))
            after.append(before[-1])
            if number == TENSORS // 2:
                total = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
                for index in range(4):
                    total += coefficients[:, index, None].double() * directions[index].double()
                after[-1] = tensor_row(
                    f"layer{number}.weight", round_once(weight.double() + total, torch.float32)
                )
    digests = {
        "base": rows_digest(before),
        "parent": rows_digest(before),
        "result": rows_digest(after),
    }
    provenance = {
        "name": "edit",
        "family": "none",
        "layer": "layer",
        "rank": 4,
        "solver": {"method": "direct"},
        "edit": "0" * 64,
    }
    name = f"layer{TENSORS // 2}.weight"
    edit = make_patch(
        {name: directions}, {name: coefficients}, {name: "o i"}, {**provenance, **digests}
    )
    patch.write_bytes(edit.to_bytes())


if __name__ == "__main__":
    main()
