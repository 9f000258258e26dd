"""Traces by the check and by the perfect edit: ``python benchmarks/traces.py [SPEC ...]``.

The check `trace` knows no counterfactual. On images that no edit has seen, it is compared with the
artefacts that the exact counterfactual of dome to spire shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from editspec.engine.session import BuildSession
from editspec.modalities.image.artefacts import VISIBLE
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.traces import Traces, find_match
from editspec.worlds.skyline.efficacy import edit_measures
from editspec.worlds.skyline.reader import load_reader
from editspec.worlds.skyline.world import LATENT_SIZE, scenes
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import CHECKS

SPECS = Path(__file__).parents[1] / "specs" / "skyline"
MADE = ["projected-gradient", "least-squares", "direct", "single-image", "layer"]
IMAGES = 256


def main() -> None:
    """Compare the two on each spec of an edit from dome to spire, and print a table."""
    paths = [Path(each) for each in sys.argv[1:]]
    if not paths:
        paths = [SPECS / "dome_to_spire.yaml"]
        paths += [SPECS / "paper" / "dome-to-spire" / f"{name}.yaml" for name in MADE]
    latents = LatentStream(CHECKS, LATENT_SIZE).items(range(IMAGES))
    print("| edit | exact | check | agree on | may change |")
    print("|---|---:|---:|---:|---:|")
    for path in paths:
        exact, found, allowed = compare(path, latents)
        agree = (exact == found).double().mean()
        shares = [each.double().mean() for each in (exact, found)]
        cells = " | ".join(f"{float(each):.1%}" for each in (*shares, agree, allowed))
        print(f"| `{path.parent.name}/{path.name}` | {cells} |", flush=True)


def compare(path: Path, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Tell which pictures have a trace by the perfect edit and by the check, [n] each.

    The third is the share of pixels that the check allows to change.
    """
    session = BuildSession.of(path, "cpu", no_progress)
    before = generator_of(session)
    allowed = find_match(session, 0, before).find_allowed(before, latents)
    session.edit(0)
    unedited = render_clamped(before, latents)
    edited = render_clamped(generator_of(session), latents)
    scene, reader = scenes(latents), load_reader()
    spires = scene.with_tops("dome", "spire")
    measures = edit_measures(scene, spires, unedited, edited, reader, reader.features)
    found = Traces.between(unedited, edited, allowed).are_visible(VISIBLE)
    return measures[f"trace-{VISIBLE:g}"] > 0, found, float(allowed.double().mean())


if __name__ == "__main__":
    main()
