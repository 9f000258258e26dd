"""Seconds of the parts of a build on Skyline: ``python benchmarks/skyline.py``.

Prints Markdown.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import torch
import yaml

from editspec import build
from editspec.worlds.registry import DEFAULT_WEIGHTS

SPEC = f"""
version: 1
model: {{family: stylegan2, weights: "{DEFAULT_WEIGHTS}"}}
edits:
  - name: dome-to-spire
    layer: layer8
    source: {{latent: 0, mask: {{box: [8, 4, 22, 30]}}}}
    target: {{latent: 1, mask: {{box: [8, 4, 22, 30]}}}}
    solver: {{method: projected-gradient}}
"""


def main() -> None:
    """Build each layer by each solver, and print the seconds as a table."""
    cores = f"{os.cpu_count()} cores ({platform.machine()})"
    print(f"{cores}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| layer | solver | 1,000 latents of statistics | one rule of 2001 steps |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDITSPEC_CACHE"] = folder + "/cache"
        for layer in ("layer6", "layer8", "layer10"):
            for solver in ("projected-gradient", "direct"):
                spec = yaml.safe_load(SPEC)
                spec["edits"][0] |= {"layer": layer, "solver": solver}
                path = Path(folder) / f"{layer}-{solver}.yaml"
                path.write_text(yaml.safe_dump(spec))
                (edit,) = build(path, Path(folder) / path.stem).edits
                statistics, solve = edit.seconds["statistics"], edit.seconds["solve"]
                shown = f"{statistics:.2f} s" if solver == "projected-gradient" else "cached"
                print(f"| {layer} | {solver} | {shown} | {solve:.2f} s |")


if __name__ == "__main__":
    main()
