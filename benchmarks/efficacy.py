"""The efficacy of checks beside that against the perfect edit: ``python benchmarks/efficacy.py``.

What each recipe asks for is looked for in the pictures of every recipe's model, and in those of the
unedited one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from editspec.engine.session import BuildSession
from editspec.modalities.image.drawing import generator_of
from editspec.modalities.image.measures import efficacy
from editspec.worlds.skyline.efficacy import touched
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, changed, render, scenes
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.expected import expected_outputs
from editspec_compiler.modalities.image.places import no_moment
from editspec_compiler.references import LoadedSpec, load, load_document
from editspec_runtime.core.progress import no_progress
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.streams import SWEEPS

SPECS = Path(__file__).parents[1] / "specs" / "skyline"
IMAGES = 60


def lit(scene: Scene) -> Scene:
    return scene.replace(windows_lit=1, reflection=scene.reflection)


RECIPES = {
    "dome_to_spire": (lambda scene: scene.with_tops("dome", "spire"), "masks/towers.png"),
    "dark_windows_to_lit": (lit, "masks/windows.png"),
    "spire_to_tree": (lambda scene: scene.with_tops("spire", "tree"), "masks/left-tower.png"),
}


def main() -> None:
    latents = LatentStream(SWEEPS, LATENT_SIZE).items(range(4 * IMAGES))
    models = {}
    for name in RECIPES:
        session = BuildSession.of(load(SPECS / f"{name}.yaml"), "cpu", no_progress)
        session.edit(0)
        models["unedited"] = replace(session, stack=[]).generator()
        models[name] = generator_of(session)
    print(
        "| what is asked for | of the model | check | against the perfect edit |\n|---|---|---:|---:|"
    )
    for name, (counterfactual, mask) in RECIPES.items():
        to_change = touched(scenes(latents), counterfactual(scenes(latents)))
        chosen = latents[to_change][:IMAGES]
        before, after = render(scenes(chosen)), render(counterfactual(scenes(chosen)))
        loaded = with_check(name, chosen, mask)
        wishes = list(expected_outputs(loaded, 0, models["unedited"], no_moment, 0))
        for other, model in models.items():
            drawn = [wish.draw(loaded, 0, model) for wish in wishes]
            measured = efficacy(zip(wishes, drawn, strict=True))
            edited, differs = torch.cat(drawn), changed(before, after)
            closer = differs & ((edited - after).abs().mean(1) < (edited - before).abs().mean(1))
            print(f"| `{name}` | `{other}` | {measured:.3f} | {closer.sum() / differs.sum():.3f} |")


def with_check(name: str, latents: torch.Tensor, mask: str) -> LoadedSpec:
    """A recipe whose one check is of these images."""
    spec = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    images = {"latents": latents.tolist(), "mask": mask}
    spec["checks"] = [{"measure": "efficacy", "at_least": 0, "images": [images]}]
    return load_document(parse(json.dumps(spec)), SPECS / f"{name}.yaml")


if __name__ == "__main__":
    main()
