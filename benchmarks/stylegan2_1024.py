"""Memory of every command for StyleGAN2-1024.

``python -m benchmarks.stylegan2_1024 [tiles]`` makes random weights with the channels of
configuration F, runs every command of the table in docs/performance.md in a process of its own on
the CPU, and prints the peak memory of the command beside the limit that the table states. It needs
2 GB of disk. With ``tiles``, it takes C of 16 latents at layer18 in several numbers of tiles
instead.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
TABLE = Path(__file__).parents[1] / "docs" / "performance.md"
LAYERS = ("layer10", "layer18")
SAMPLES = {"layer10": 8, "layer18": 4}
"""The latents of C by layer; more of them take no more memory.

The memory of C is that of the forward batches that are computed at once, one for each thread: each
has 4 latents at layer10 and 1 at layer18.
"""

COLD = ("statistics", "lock")
"""Commands that are measured with an empty cache, besides the first build."""

LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
"""
"""A small program that starts the command, and prints its exit code, memory and seconds.

Linux counts the memory of a process from before it becomes another program, so a large one such as
this must not start the command itself.
"""


C_IN_TILES = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from editspec_runtime.io.cache import Cache
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.maths.moment_cache import Blocks
from editspec_runtime.maths.sampled_keys import forward_batch
from editspec_runtime.modalities.image.streams import STATISTICS
model = StyleGAN2(load_file("base.safetensors"))
sample, cache = LatentSample(LatentStream(STATISTICS, 512), 16), Cache(Path("cache"))
batch = forward_batch(model, "layer18", sample, EDITSPEC)
Blocks(model, "layer18", sample, batch, cache, int(sys.argv[1])).estimate()
"""
"""A program that takes C as `second_moment` does where memory runs out."""


@dataclass(frozen=True)
class Row:
    """A command and the limits of its memory.

    Attributes
    ----------
    command
        The command in the words of the table; words in capitals are files.
    limits
        MiB by the layer that is edited; empty where the table says why there is none.
    mark
        ``*`` for a command that the tests leave to ``develop.py test-long``.
    """

    command: str
    limits: dict[str, int]
    mark: str


def read_rows() -> list[Row]:
    """Read the table of the docs."""
    found = []
    for line in TABLE.read_text().partition("\n## Memory\n")[2].splitlines():
        match = re.match(r"\| `([^`]+)`(\*?) \|([^|]*)\|([^|]*)\|", line)
        if match is None:
            continue
        command, mark, *cells = match.groups()
        limits = {}
        for layer, cell in zip(LAYERS, cells, strict=True):
            if cell.strip():
                limits[layer] = int(cell)
        found.append(Row(command, limits, mark))
    return found


def measure_peak(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> float:
    """Run a command, and return its peak memory in MiB.

    Pages of mapped files count. Of the command and the processes that it waits for, the largest
    counts.
    """
    mebibytes, _ = measure_usage(command, folder, environment)
    return mebibytes


def measure_usage(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """Run a command, and return its peak memory and its processor time.

    The memory is in MiB, the time in seconds. Raises `RuntimeError` with the output on stderr where
    the command fails.
    """
    result = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
    )
    code, kibibytes, seconds = map(float, result.stdout.splitlines()[-1].split())
    if code:
        raise RuntimeError(f"{shlex.join(command)} ended with {code:.0f}:\n{result.stderr}")
    return kibibytes / 2**10, seconds


def make_weights(size: int = 1024) -> dict[str, Tensor]:
    """Make random weights of `size` pixels by the names inside ``g_ema``."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    named = {"input.input": normal(1, 512, 4, 4)}
    for number in range(1, 9):
        named |= {
            f"style.{number}.weight": normal(512, 512) / 0.01,
            f"style.{number}.bias": torch.zeros(512),
        }
    number, inputs = 0, 512
    for resolution, channels in CHANNELS.items():
        if resolution > size:
            break
        for _ in range(1 if resolution == 4 else 2):
            name = "conv1" if number == 0 else f"convs.{number - 1}"
            named |= {
                f"{name}.conv.weight": normal(1, channels, inputs, 3, 3),
                f"{name}.conv.modulation.weight": normal(inputs, 512),
                f"{name}.conv.modulation.bias": torch.ones(inputs),
                f"{name}.noise.weight": 0.1 * normal(1),
                f"{name}.activate.bias": torch.zeros(channels),
                f"noises.noise_{number}": normal(1, 1, resolution, resolution),
            }
            number, inputs = number + 1, channels
        rgb = "to_rgb1" if resolution == 4 else f"to_rgbs.{number // 2 - 1}"
        named |= {
            f"{rgb}.conv.weight": normal(1, 3, channels, 1, 1),
            f"{rgb}.conv.modulation.weight": normal(channels, 512),
            f"{rgb}.conv.modulation.bias": torch.ones(channels),
            f"{rgb}.bias": torch.zeros(1, 3, 1, 1),
        }
    return named


@dataclass(frozen=True)
class Workplace:
    """A folder with all files that the commands of the table name."""

    folder: Path

    def prepare(self) -> None:
        """Write weights, specs, a record and a key."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        named = make_weights()
        save_file(named, self.folder / "base.safetensors")
        torch.save({"g_ema": named}, self.folder / "base.pt")
        for layer in LAYERS:
            self._write(f"{layer}.json", layer, {"method": "direct", "steps": 5})
        self._write(
            "smooth.json",
            "layer10",
            {"method": "least-squares"},
            latents={"seed": 1, "sampler": "numpy-legacy"},
        )
        self._write("stack.json", "layer10", {"method": "direct", "steps": 5}, edits=2)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "key.pem").write_bytes(pem)

    def _write(
        self, name: str, layer: str, solver: dict[str, Any], edits: int = 1, **more: Any
    ) -> None:
        place = {"latent": 1, "mask": {"box": [200, 200, 328, 328]}}
        edit = {
            "layer": layer,
            "source": place,
            "target": {**place, "latent": 2},
            "solver": solver,
        }
        checks = [
            {"measure": "target-error", "at_most": 100},
            {"measure": "efficacy", "at_least": 0},
        ]
        spec = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "base.safetensors"},
            "statistics": {"samples": SAMPLES[layer]},
            # Equal edits take as much memory as others do.
            "edits": [{**edit, "name": name} for name in ("e", "f")[:edits]],
            "checks": checks,
        }
        (self.folder / name).write_text(json.dumps(spec | more))

    def measure_peak(self, row: Row, layer: str) -> float:
        """Run the command of a row on an edit of `layer`, and return its peak in MiB."""
        own = re.sub(r"\W+", "-", f"{layer} {row.command}")
        files = {
            "SPEC": f"{layer}.json",
            "SMOOTH": "smooth.json",
            "STACK": "stack.json",
            "RECORD": "record.json",
            "KEY": "key.pem",
            "BASE": "base.safetensors",
            "BASE.pt": "base.pt",
            "EDITED": f"edited-{layer}.safetensors",
            "BUILD": f"build-{layer}",
            "PATCH": f"build-{layer}/patches/01-e.safetensors",
            "RULE": f"build-{layer}/rules/01-e.safetensors",
            "OUT": f"out-{own}",
            "OUT.png": f"out-{own}.png",
            "OUT.yaml": f"out-{own}.yaml",
            "OUT.safetensors": f"out-{own}.safetensors",
        }
        command, *arguments = [files.get(word, word) for word in shlex.split(row.command)]
        cache = own if command in COLD else layer
        environment = {
            "EDITSPEC_CACHE": str(self.folder / f"cache-{cache}"),
            # As many parts at once on every machine: each takes memory of its own.
            "OMP_NUM_THREADS": "2",
        }
        whole = [sys.executable, "-m", "editspec", command, *arguments]
        return measure_peak(whole, self.folder, environment)


def main() -> None:
    """Measure all commands, or the numbers of tiles, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        place = Workplace(Path(name))
        place.prepare()
        if sys.argv[1:] == ["tiles"]:
            print_tiles(place)
        else:
            print_commands(place)


def print_tiles(place: Workplace) -> None:
    """Print the memory and the seconds of C by the number of tiles."""
    print("| tiles | MiB | seconds |\n|---:|---:|---:|")
    for tiles in (1, 2, 4, 8, 32):
        command = [sys.executable, "-c", C_IN_TILES, str(tiles)]
        mebibytes, seconds = measure_usage(command, place.folder)
        print(f"| {tiles} | {mebibytes:.0f} | {seconds:.1f} |", flush=True)


def print_commands(place: Workplace) -> None:
    """Print the peak memory of every command beside its limit."""
    print("| command | layer | MiB | limit |\n|---|---|---:|---:|")
    for row in read_rows():
        for layer, limit in row.limits.items():
            mebibytes = place.measure_peak(row, layer)
            print(f"| `{row.command}` | {layer} | {mebibytes:.0f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
