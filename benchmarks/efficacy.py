"""Efficacy by checks and by the perfect edit: ``python benchmarks/efficacy.py [RECIPE ...]``.

The change that each recipe asks for is measured in the images of every recipe's model, or of those
that are named, and in those of the unedited one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.measures import efficacy
from editspec.worlds.skyline.efficacy import find_changed_scenes
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, find_changed_pixels, render, scenes
from editspec_compiler.document import parse
from editspec_compiler.loaded_spec import LoadedSpec
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.places import no_moment
from editspec_compiler.references import load, load_document
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import SWEEPS

SPECS = Path(__file__).parents[1] / "specs" / "skyline"
IMAGES = 60


def light_windows(scene: Scene) -> Scene:
    """Light the windows of scenes; the reflection stays."""
    return scene.replace(windows_lit=1, reflection=scene.reflection)


RECIPES: dict[str, tuple[Callable[[Scene], Scene], str]] = {
    "dome_to_spire": (lambda scene: scene.with_tops("dome", "spire"), "masks/towers.png"),
    "dark_windows_to_lit": (light_windows, "masks/windows.png"),
    "spire_to_tree": (lambda scene: scene.with_tops("spire", "tree"), "masks/left-tower.png"),
}


def main() -> None:
    """Measure each recipe in each model, and print a table."""
    latents = LatentStream(SWEEPS, LATENT_SIZE).items(range(4 * IMAGES))
    models = {}
    for name in sys.argv[1:] or RECIPES:
        session = BuildSession.of(load(SPECS / f"{name}.yaml"), "cpu", no_progress)
        session.edit(0)
        models["unedited"] = generator_of(replace(session, stack=[]))
        models[name] = generator_of(session)
    print("| change asked for | model | check | against the perfect edit |")
    print("|---|---|---:|---:|")
    for name, (counterfactual, mask) in RECIPES.items():
        to_change = find_changed_scenes(scenes(latents), counterfactual(scenes(latents)))
        chosen = latents[to_change][:IMAGES]
        before, after = render(scenes(chosen)), render(counterfactual(scenes(chosen)))
        loaded = load_with_check(name, chosen, mask)
        wanted = list(expected_outputs(loaded, 0, models["unedited"], no_moment, 0, full=True))
        for other, model in models.items():
            drawn = [output.draw(loaded, 0, model) for output in wanted]
            measured = efficacy(zip(wanted, drawn, strict=True))
            edited, differs = torch.cat(drawn), find_changed_pixels(before, after)
            to_after = (edited - after).abs().mean(1)
            to_before = (edited - before).abs().mean(1)
            closer = differs & (to_after < to_before)
            share = closer.sum() / differs.sum()
            print(f"| `{name}` | `{other}` | {measured:.3f} | {share:.3f} |")


def load_with_check(name: str, latents: torch.Tensor, mask: str) -> LoadedSpec:
    """Load a recipe with one check, of the images of `latents` [n, latent_size]."""
    spec = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    images = {"latents": latents.tolist(), "mask": mask}
    spec["checks"] = [{"measure": "efficacy", "at_least": 0, "images": [images]}]
    return load_document(parse(json.dumps(spec)), SPECS / f"{name}.yaml")


if __name__ == "__main__":
    main()
