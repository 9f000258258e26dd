"""The recipes that ship: they build, and their edits do over the whole model what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from editspec.worlds.skyline import WEIGHTS
from editspec.worlds.skyline.efficacy import edit_measures, edit_numbers, find_changed_scenes
from editspec.worlds.skyline.reader import load_reader
from editspec.worlds.skyline.world import LATENT_SIZE, Scene, scenes
from editspec_compiler import load
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.modalities.image.rendering import render_clamped
from editspec_runtime.modalities.image.streams import REPORTS
from tests.commands import said

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "specs" / "skyline"
SMALL = ROOT / "tests" / "recipes"
"""Recipes that take little time, for what any edit would show."""

ROWS = 8
"""The pairs and the preserved images that are left of a recipe that is built in a hurry."""

pytestmark = pytest.mark.usefixtures("one_cache")
"""All tests of the file share the statistics of one model."""


def edited(patches: list[Any], folder: Path) -> StyleGAN2:
    said("apply", "--model", "builtin:skyline", *patches, "-o", folder / "edited.safetensors")
    return StyleGAN2(read_weights(folder / "edited.safetensors").tensors)


def numbers(
    model: StyleGAN2, counterfactual: Any, count: int = 100
) -> tuple[dict[str, float], dict[str, float]]:
    """What the unedited and the edited model make of unseen scenes that the perfect edit
    changes.
    """
    latents = LatentStream(REPORTS, LATENT_SIZE).items(range(count))
    latents = latents[find_changed_scenes(scenes(latents), counterfactual(scenes(latents)))]
    scene, reader = scenes(latents), load_reader()
    unedited = render_clamped(StyleGAN2(read_weights(WEIGHTS).tensors), latents)
    return tuple(
        edit_numbers(
            edit_measures(scene, counterfactual(scene), unedited, images, reader, reader.features)
        )
        for images in (unedited, render_clamped(model, latents))
    )


def lit(scene: Scene) -> Scene:
    return scene.replace(windows_lit=1, reflection=scene.reflection)


RECIPES = {
    "dome_to_spire": (lambda scene: scene.with_tops("dome", "spire"), 0.8, 0.03),
    "dark_windows_to_lit": (lit, 0.9, 0.03),
    "spire_to_tree": (lambda scene: scene.with_tops("spire", "tree"), 0.15, 0.03),
}

HURRIED = {"spire_to_tree": {"steps": 60, "weight": 100}}
"""The refinement of recipes that need more than five steps on pictures to show anything."""


def small(name: str, folder: Path) -> Path:
    """A copy of a small recipe: a build leaves its lock beside the spec."""
    text = (SMALL / f"{name}.yaml").read_text().replace("../..", str(ROOT))
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def hurry(name: str, folder: Path) -> Path:
    """A recipe with few of its pairs and images, a few steps, and a small sample."""
    spec = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    spec["statistics"] = {"samples": 96}
    (folder / "pairs").mkdir()
    for edit in spec["edits"]:
        if "refine" in edit:
            edit["refine"] |= HURRIED.get(name, {"steps": 5})
            edit["rank"] = min(edit["rank"], 32)
    for rows in (SPECS / "pairs").iterdir():
        lines = rows.read_text().splitlines(keepends=True)
        (folder / "pairs" / rows.name).write_text("".join(lines[:: len(lines) // ROWS]))
    shutil.copytree(SPECS / "masks", folder / "masks")
    (folder / "hurried.yaml").write_text(yaml.safe_dump(spec))
    return folder / "hurried.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "dome_to_spire",
        # Their small recipes pass checks of the same measures.
        pytest.param("dark_windows_to_lit", marks=pytest.mark.long),
        pytest.param("spire_to_tree", marks=pytest.mark.long),
    ],
)
def test_a_recipe_changes_the_rule_and_little_else(name: str, tmp_path: Path) -> None:
    counterfactual, least, outside = RECIPES[name]
    edits = said("build", hurry(name, tmp_path), "-o", tmp_path / "out")["edits"]
    unmodified, found = numbers(edited([edit["patch"] for edit in edits], tmp_path), counterfactual)
    assert found["efficacy"] >= least
    assert found["outside"] <= outside
    assert unmodified["efficacy"] < 0.1


@pytest.mark.slow
def test_three_edits_compose(tmp_path: Path) -> None:
    edits = said("build", small("three_edits", tmp_path), "-o", tmp_path / "out")["edits"]
    assert len(edits) == 3
    for count in (1, 2, 3):
        out = tmp_path / f"{count}.safetensors"
        found = said(
            "apply",
            "--model",
            "builtin:skyline",
            *(edit["patch"] for edit in edits[:count]),
            "-o",
            out,
        )
        assert found["digest"] == edits[count - 1]["result"] == read_weights(out).digest()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dark_windows_to_lit", "spire_to_tree", "three_edits"])
def test_recipes_pass_their_checks(name: str, tmp_path: Path) -> None:
    found = said("check", small(name, tmp_path))
    assert found["passed"]
    assert {row["status"] for row in found["checks"]} == {"passed"}


def changed_recipe(
    name: str, folder: Path, change: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """The statuses of the checks of a recipe that was changed: (check, edit) -> status. It must not
    pass.
    """
    spec = yaml.safe_load(small(name, folder).read_text())
    change(spec)
    (folder / "changed.yaml").write_text(yaml.safe_dump(spec))
    rows = said("check", folder / "changed.yaml", code=1)["checks"]
    return {(row["name"], row["edit"]): row["status"] for row in rows}


def test_the_checks_of_a_recipe_see_a_rule_that_hardly_holds(tmp_path: Path) -> None:
    def hardly(spec: dict[str, Any]) -> None:
        spec["edits"][0]["solver"]["steps"] = 3

    statuses = changed_recipe("dark_windows_to_lit", tmp_path, hardly)
    assert statuses["efficacy", "dark-windows-to-lit"] == "failed"
    assert statuses["lit-elsewhere", "dark-windows-to-lit"] == "failed"


def test_the_checks_of_a_recipe_see_an_edit_that_a_later_one_overwrites(tmp_path: Path) -> None:
    def overwritten(spec: dict[str, Any]) -> None:
        first = spec["edits"][0]
        battlements = {**first["source"], "latent": 204}
        spec["edits"] = [first, {**first, "name": "overwriting", "source": battlements}]
        spec["checks"] = [
            {"measure": "retention", "at_least": 0.9},
            {"measure": "efficacy", "at_least": 0.5},
        ]

    statuses = changed_recipe("three_edits", tmp_path, overwritten)
    assert statuses["retention", "dome-to-spire"] == "failed"
    assert statuses["efficacy", "dome-to-spire"] == "passed"


def latents_of(value: Any) -> Iterator[int]:
    """The latents that a part of a spec names by their numbers."""
    if isinstance(value, list):
        for each in value:
            yield from latents_of(each)
    elif isinstance(value, dict):
        if isinstance(value.get("latent"), int):
            yield value["latent"]
        yield from value.get("latents") or []
        yield from latents_of(list(value.values()))


CHECKED = [path for path in sorted(SPECS.glob("*.yaml")) if "\nchecks:" in path.read_text()]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.stem)
def test_recipes_are_checked_on_images_that_shaped_no_edit(path: Path) -> None:
    spec = load(path).spec.model_dump()
    shaping, checked = (set(latents_of(spec[part])) for part in ("edits", "checks"))
    assert len(shaping) > 40
    assert len(checked) > 8
    assert shaping.isdisjoint(checked)
    # One of those that shaped an edit would be found among the others.
    assert not shaping.isdisjoint(latents_of(spec["edits"][0]["preserve"]))


def test_the_first_recipe_is_eleven_lines() -> None:
    lines = (SPECS / "dome_to_spire.yaml").read_text().splitlines()
    assert len([line for line in lines if line.strip() and not line.strip().startswith("#")]) <= 11


@pytest.mark.parametrize("layer", [f"layer{number}" for number in range(2, 11)])
def test_the_identity_edit_has_no_loss(layer: str, tmp_path: Path) -> None:
    place = {"latent": 5, "mask": {"box": [8, 4, 30, 31]}}
    spec: dict[str, Any] = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "builtin:skyline"},
        "statistics": {"samples": 32},
        "edits": [
            {
                "name": "e",
                "layer": layer,
                "source": place,
                "target": place,
                "solver": {"method": "direct", "steps": 5},
            }
        ],
    }
    (tmp_path / "identity.yaml").write_text(yaml.safe_dump(spec))
    (edit,) = said("build", tmp_path / "identity.yaml", "-o", tmp_path / "out")["edits"]
    assert edit["loss"] < 1e-6
    spec["edits"][0]["source"] = {**place, "latent": 6}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(spec))
    (edit,) = said("build", tmp_path / "other.yaml", "-o", tmp_path / "other")["edits"]
    assert edit["loss"] > 1e-4


def test_the_reported_loss_is_that_of_the_applied_weights(tmp_path: Path) -> None:
    from editspec_runtime.methods.rule_file import read_rule

    (edit,) = said("build", small("dome_to_spire", tmp_path), "-o", tmp_path / "out")["edits"]
    (rule,) = read_rule(tmp_path / "out/rules/01-dome-to-spire.safetensors").rules
    unedited = StyleGAN2(read_weights(WEIGHTS).tensors)

    def loss(model: StyleGAN2) -> float:
        def mean(value: Tensor) -> float:
            return (value - rule.value).abs().mean().item()

        return mean(model.function(rule.layer)(rule.key, model.weight(rule.layer), rule.arguments))

    assert loss(edited([edit["patch"]], tmp_path)) == pytest.approx(edit["loss"], rel=1e-5)
    assert loss(unedited) > 1.1 * edit["loss"]
