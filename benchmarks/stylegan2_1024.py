"""Memory of one edit of a StyleGAN2 of 1024 x 1024 pixels on a CPU: ``python benchmarks/stylegan2_1024.py``.

Makes random weights with the channels of configuration F, builds a spec of one edit and applies the patch, each in a
process of its own whose greatest memory is printed. Needs 1 GB of disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
WATCHED = (
    "import resource, sys; from editspec.cli import app\n"
    "try:\n    app()\nexcept SystemExit as end:\n    code = end.code\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\nsys.exit(code)"
)


def weights(size: int = 1024) -> dict[str, Tensor]:
    """Random weights of a generator of `size` pixels by the names inside ``g_ema``."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    named = {"input.input": normal(1, 512, 4, 4)}
    for number in range(1, 9):
        named |= {f"style.{number}.weight": normal(512, 512) / 0.01, f"style.{number}.bias": torch.zeros(512)}
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


def main() -> None:
    """Measure and print."""
    layer = sys.argv[1] if len(sys.argv) > 1 else "layer8"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(weights(), folder / "base.safetensors")
        place = {"latent": 1, "mask": {"box": [200, 200, 500, 500]}}
        edit = {"name": "e", "layer": layer, "source": place, "target": {**place, "latent": 2}}
        solver = {"method": "direct", "steps": 20}
        spec = {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "base.safetensors"},
            "statistics": {"samples": 64},
            "edits": [{**edit, "solver": solver}],
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        for command in (
            ["compile", "spec.json", "-o", "rules"],
            ["build", "spec.json", "-o", "out"],
            ["apply", "--model", "base.safetensors", "out/patches/01-e.safetensors", "-o", "edited.safetensors"],
        ):
            environment = {"EDITSPEC_CACHE": str(folder / "cache")}
            result = subprocess.run(
                [sys.executable, "-c", WATCHED, *command], cwd=folder, capture_output=True, text=True,
                env=os.environ | environment,
            )  # fmt: skip
            if result.returncode:
                sys.exit(result.stderr)
            kilobytes = int(result.stderr.split()[-1])
            print(f"{layer} {command[0]}: {kilobytes / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
