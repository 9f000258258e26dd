"""Apply a patch to a checkpoint of 4 GB, against cp of the same file: ``python benchmarks/apply.py [FOLDER]``.

Prints the time of both, each with its sync, and the peak memory of the process that applies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from editspec_runtime.digest import rows_digest, tensor_row
from editspec_runtime.patch import make_patch, rounded

TENSORS, ROWS, COLUMNS = 200, 2560, 2048
"""200 float32 tensors of 20 MiB: 4.2 GB."""

APPLY = """
import json, resource, sys, time
from editspec.workflow import apply
begun = time.perf_counter()
apply(sys.argv[1], [sys.argv[2]], sys.argv[3])
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        base, patch = Path(folder, "base.safetensors"), Path(folder, "patch.safetensors")
        make(base, patch)
        for attempt in range(3):
            os.sync()
            begun = time.perf_counter()
            subprocess.run(["cp", base, Path(folder, "copy")], check=True)
            os.sync()
            copied = time.perf_counter() - begun
            Path(folder, "copy").unlink()
            os.sync()
            command = [sys.executable, "-c", APPLY, base, patch, Path(folder, "out.safetensors")]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            Path(folder, "out.safetensors").unlink()
            size = ROWS * COLUMNS * 4 / 2**20
            print(
                f"run {attempt + 1}: {base.stat().st_size / 1e9:.2f} GB; cp and sync {copied:.2f} s; "
                f"apply and sync {found['seconds']:.2f} s ({found['seconds'] / copied:.2f} times; "
                f"{found['cpu']:.1f} s of CPU); "
                f"peak {found['peak'] / 1024:.0f} MiB, the bound is {1.5 * size + 300:.0f} MiB",
                flush=True,
            )


def make(base: Path, patch: Path) -> None:
    """A checkpoint written tensor by tensor, and a patch of one of its tensors that belongs to it."""
    header, size = {}, ROWS * COLUMNS * 4
    for number in range(TENSORS):
        offsets = [number * size, (number + 1) * size]
        header[f"layer{number}.weight"] = {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": offsets}
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
                after[-1] = tensor_row(f"layer{number}.weight", rounded(weight.double() + total, torch.float32))
    digests = {"base": rows_digest(before), "parent": rows_digest(before), "result": rows_digest(after)}
    said = {"name": "edit", "family": "none", "layer": "layer", "rank": 4, "solver": {}, "edit": "0" * 64}
    name = f"layer{TENSORS // 2}.weight"
    made = make_patch({name: directions}, {name: coefficients}, {name: "o i"}, {**said, **digests})
    patch.write_bytes(made.to_bytes())


if __name__ == "__main__":
    main()
