"""Memory of every command at a StyleGAN2 of 1024 x 1024 pixels on a CPU: ``python -m
benchmarks.stylegan2_1024``.

Makes random weights with the channels of configuration F, runs every command of the table in
docs/performance.md in a process of its own, and prints its greatest memory beside the bound that
the table states. Needs 2 GB of disk. With the word ``bands`` behind it, it takes C of 16 latents at
layer18 in several numbers of bands instead.
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
SAMPLES = {"layer10": 16, "layer18": 4}
"""Of C; its memory is that of one forward batch, which is 16 latents at layer10 and 2 at
layer18.
"""

COLD = ("statistics", "lock")
"""Commands that are measured with an empty cache, besides the first build."""

LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
"""
"""Linux counts what a process was before it became another program: it is started by a small one,
not by this one.
"""


C_IN_BANDS = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from editspec_runtime.io.cache import Cache
from editspec_runtime.modalities.image.compatibility import EDITSPEC
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentSample, LatentStream
from editspec_runtime.maths.moment_cache import Blocks
from editspec_runtime.maths.sampled_keys import forward_batch
model = StyleGAN2(load_file("base.safetensors"))
sample, cache = LatentSample(LatentStream(2, 512), 16), Cache(Path("cache"))
batch = forward_batch(model, "layer18", sample, EDITSPEC)
Blocks(model, "layer18", sample, batch, cache, int(sys.argv[1])).estimate()
"""
"""C as it is taken where memory ends, without waiting for the end."""


@dataclass(frozen=True)
class Row:
    """A command and its bounds.

    Attributes
    ----------
    command
        As the table has it: files are words in capitals.
    bounds
        MiB by the layer that is edited; empty where the table says in words why there is none.
    mark
        What stands behind the command: ``*`` where it takes long, so that only the benchmark runs
        it.
    """

    command: str
    bounds: dict[str, int]
    mark: str


def rows() -> list[Row]:
    """The table of the docs."""
    found = []
    for line in TABLE.read_text().partition("\n## Memory\n")[2].splitlines():
        if match := re.match(r"\| `([^`]+)`(\*?) \|([^|]*)\|([^|]*)\|", line):
            command, mark, *cells = match.groups()
            bounds = {
                layer: int(cell) for layer, cell in zip(LAYERS, cells, strict=True) if cell.strip()
            }
            found.append(Row(command, bounds, mark))
    return found


def peak(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> float:
    """The greatest memory of a process, or of one that it waited for, in MiB; pages of files that
    it maps count.
    """
    return used(command, folder, environment)[0]


def used(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """The memory of `peak`, and the seconds of a processor that a command takes.

    Raises `RuntimeError` with what it wrote to stderr where it fails.
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


def weights(size: int = 1024) -> dict[str, Tensor]:
    """Random weights of a generator of `size` pixels by the names inside ``g_ema``."""
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
    """A folder with all that the commands of the table name."""

    folder: Path

    def prepare(self) -> None:
        """Write weights, specs, a record and a key."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        named = weights()
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
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "key.pem").write_bytes(pem)

    def _write(self, name: str, layer: str, solver: dict[str, Any], **more: Any) -> None:
        place = {"latent": 1, "mask": {"box": [200, 200, 328, 328]}}
        edit = {
            "name": "e",
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
            "edits": [edit],
            "checks": checks,
        }
        (self.folder / name).write_text(json.dumps(spec | more))

    def peak(self, row: Row, layer: str) -> float:
        """Memory that the command of a row takes where `layer` is edited, in MiB."""
        own = re.sub(r"\W+", "-", f"{layer} {row.command}")
        files = {
            "SPEC": f"{layer}.json",
            "SMOOTH": "smooth.json",
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
            "OUT.json": f"out-{own}.json",
            "OUT.safetensors": f"out-{own}.safetensors",
        }
        command, *arguments = [files.get(word, word) for word in shlex.split(row.command)]
        cache = own if command in COLD else layer
        environment = {"EDITSPEC_CACHE": str(self.folder / f"cache-{cache}")}
        return peak(
            [sys.executable, "-m", "editspec", command, *arguments], self.folder, environment
        )


def main() -> None:
    """Measure all and print it as a table."""
    with tempfile.TemporaryDirectory() as name:
        place = Workplace(Path(name))
        place.prepare()
        if sys.argv[1:] == ["bands"]:
            print("| bands | MiB | seconds |\n|---:|---:|---:|")
            for bands in (1, 2, 4, 8, 32):
                mebibytes, seconds = used(
                    [sys.executable, "-c", C_IN_BANDS, str(bands)], place.folder
                )
                print(f"| {bands} | {mebibytes:.0f} | {seconds:.1f} |", flush=True)
            return
        print("| command | layer | MiB | bound |\n|---|---|---:|---:|")
        for row in rows():
            for layer, bound in row.bounds.items():
                print(
                    f"| `{row.command}` | {layer} | {place.peak(row, layer):.0f} | {bound} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
