"""Sources of several copies, and of the image of a list that is most alike the target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.digests import edit_digest
from editspec_compiler.modalities.image.expected import expected_outputs, find_source_values
from editspec_compiler.modalities.image.places import no_moment
from editspec_compiler.modalities.image.resolve import resolve_rule
from editspec_runtime.codes import Code
from editspec_runtime.core.rule import LayerRule
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream
from tests.commands import run, said

Write = Callable[..., Path]

TARGET = {"box": [4, 4, 12, 12]}
SMALL = {"box": [1, 1, 4, 4]}
SKY = {"latent": 2}
OTHER = {"latent": 6, "mask": TARGET}
CROWN = {"latent": 3, "mask": SMALL}


def read(write: Write, folder: Path, source: Any, **fields: Any) -> LoadedSpec:
    given = {"layer": "layer6", "target": {"latent": 1, "mask": TARGET}, **fields}
    return load(write(folder, source=source, **given))


def model_of(loaded: LoadedSpec) -> Generator:
    return make_model("stylegan2", read_weights(loaded.weights).tensors)


def resolve(write: Write, folder: Path, source: Any, **fields: Any) -> LayerRule:
    loaded = read(write, folder, source, **fields)
    return resolve_rule(loaded, 0, model_of(loaded), no_moment)


def unit_moment(generator: Generator, layer: str) -> Tensor:
    """A second moment by which the units are ranked by the context alone."""
    return torch.eye(generator.layer(layer).in_features, dtype=torch.float64)


def value_map(loaded: LoadedSpec, latent: int) -> Tensor:
    model = model_of(loaded)
    trace = model.trace("layer6", LatentStream(1, 8).items([latent]))
    return model.layer_value("layer6", trace).detach()


def test_copies_are_pasted_one_over_the_other(tiny_spec: Write, tmp_path: Path) -> None:
    loaded = read(tiny_spec, tmp_path, [SKY, CROWN])
    sky, crown = value_map(loaded, 2), value_map(loaded, 3)
    wanted = sky[:, :, 4:12, 4:12].clone()
    wanted[:, :, 3:6, 3:6] = crown[:, :, 1:4, 1:4]
    rule = resolve_rule(loaded, 0, model_of(loaded), no_moment)
    assert rule.details["region"] == [4, 4, 12, 12]
    assert torch.equal(rule.value, wanted)
    # In the other order, the sky covers the crown.
    covered = resolve(tiny_spec, tmp_path, [CROWN, SKY])
    assert torch.equal(covered.value, sky[:, :, 4:12, 4:12])


def test_a_shift_moves_what_is_copied(tiny_spec: Write, tmp_path: Path) -> None:
    at_the_middle = resolve(tiny_spec, tmp_path, CROWN)
    shifted = resolve(tiny_spec, tmp_path, CROWN | {"shift": [2, -3]})
    assert at_the_middle.details["region"] == [7, 7, 10, 10]
    assert shifted.details["region"] == [4, 9, 7, 12]
    assert torch.equal(at_the_middle.value, shifted.value)
    # Beyond the edge it stays inside, as at the edge.
    beyond = resolve(tiny_spec, tmp_path, CROWN | {"shift": [100, 0]})
    assert beyond.details["region"] == [7, 13, 10, 16]
    # Of a layer with half as many positions, 3 pixels are one and a half of them: two.
    source = {"latent": 3, "mask": {"box": [0, 0, 4, 4]}, "shift": [3, -2]}
    coarse = resolve(tiny_spec, tmp_path, source, layer="layer4")
    assert coarse.details["region"] == [2, 5, 4, 7]


def test_copies_cover_a_region_together(tiny_spec: Write, tmp_path: Path) -> None:
    apart = [CROWN | {"shift": [-3, 0]}, {"latent": 5, "mask": SMALL, "shift": [3, 1]}]
    loaded = read(tiny_spec, tmp_path, apart)
    rule = resolve_rule(loaded, 0, model_of(loaded), no_moment)
    assert rule.details["region"] == [7, 4, 11, 13]
    own = value_map(loaded, 1)
    # Between them the target stays as it is.
    assert torch.equal(rule.value[:, :, :, 3:6], own[:, :, 7:11, 7:10])
    assert torch.equal(rule.value[:, :, :3, :3], value_map(loaded, 3)[:, :, 1:4, 1:4])


def test_one_copy_in_a_list_is_that_copy(tiny_spec: Write, tmp_path: Path) -> None:
    for source in (SKY, CROWN, {"nearest": {"latents": [4, 5]}}, {"latents": [4, 5]}):
        target = {"target": {"latents": [1, 6], "mask": TARGET}}
        alone = read(tiny_spec, tmp_path, source, **target)
        listed = read(tiny_spec, tmp_path, [source], **target)
        assert alone.spec == listed.spec
        assert edit_digest(alone, 0) == edit_digest(listed, 0)


def test_a_copy_that_is_covered_changes_nothing(tiny_spec: Write, tmp_path: Path) -> None:
    rule = resolve(tiny_spec, tmp_path, SKY)
    again = resolve(tiny_spec, tmp_path, [CROWN, SKY])
    assert torch.equal(rule.key, again.key)
    assert torch.equal(rule.value, again.value)


def test_pixels_are_composited_alike(tiny_spec: Write, tmp_path: Path) -> None:
    fields = {"solver": {"method": "all-weights", "steps": 1}}
    loaded = read(tiny_spec, tmp_path, [SKY, CROWN], **fields)
    model = model_of(loaded)
    own, sky, crown = model.images(LatentStream(1, 8).items([1, 2, 3])).detach()
    own[:, 4:12, 4:12] = sky[:, 4:12, 4:12]
    own[:, 7:10, 7:10] = crown[:, 1:4, 1:4]
    rule = resolve_rule(loaded, 0, model, no_moment)
    assert torch.allclose(rule.value[0], own, atol=1e-5)


def distances(loaded: LoadedSpec, target: int, candidates: list[int], mask: list[int]) -> Tensor:
    """The mean squared differences of pictures outside of a box."""
    with torch.no_grad():
        images = model_of(loaded).images(LatentStream(1, 8).items([target, *candidates])).double()
    left, top, right, bottom = mask
    outside = torch.ones(16, 16, dtype=torch.float64)
    outside[top:bottom, left:right] = 0
    squares = (images[1:] - images[0]).square().mean(1)
    return (outside * squares).sum((1, 2)) / outside.sum()


@pytest.mark.parametrize("mask", [None, [0, 0, 16, 8]])
def test_the_nearest_is_the_one_with_the_least_difference(
    tiny_spec: Write, tmp_path: Path, mask: list[int] | None
) -> None:
    candidates = list(range(20, 32))
    nearest = {"latents": candidates} | ({"except": {"box": mask}} if mask else {})
    targets = {"target": {"latents": [1, 6, 9], "mask": TARGET}}
    loaded = read(tiny_spec, tmp_path, {"nearest": nearest}, **targets)
    rule = resolve_rule(loaded, 0, model_of(loaded), no_moment)
    wanted = []
    for target in (1, 6, 9):
        found = distances(loaded, target, candidates, mask or TARGET["box"])
        wanted.append(candidates[int(found.argmin())])
    assert rule.details["nearest"] == wanted
    assert len(set(wanted)) > 1
    written = resolve(tiny_spec, tmp_path, {"latents": wanted}, **targets)
    assert torch.equal(rule.key, written.key)
    assert torch.equal(rule.value, written.value)


def test_the_nearest_of_one_is_that_one(tiny_spec: Write, tmp_path: Path) -> None:
    for more in ({}, {"mask": SMALL, "shift": [1, 1]}):
        chosen = resolve(tiny_spec, tmp_path, {"nearest": {"latents": [5]}, **more})
        plain = resolve(tiny_spec, tmp_path, {"latent": 5, **more})
        assert chosen.details == plain.details | {"nearest": [5]}
        assert torch.equal(chosen.value, plain.value)


def test_of_images_alike_the_first_is_taken(tiny_spec: Write, tmp_path: Path) -> None:
    (same,) = LatentStream(1, 8).items([5]).tolist()
    for latents, wanted in (([5, same], 5), ([same, 5], "latents[0]")):
        rule = resolve(tiny_spec, tmp_path, {"nearest": {"latents": latents}})
        assert rule.details["nearest"] == [wanted]


def test_a_crown_goes_over_the_nearest_sky(tiny_spec: Write, tmp_path: Path) -> None:
    sources = [{"nearest": {"latents": list(range(20, 32))}}, CROWN]
    loaded = read(tiny_spec, tmp_path, sources, **{"refine": {"steps": 1}, "preserve": [SKY]})
    rule = resolve_rule(loaded, 0, model_of(loaded), no_moment)
    (chosen,) = rule.details["nearest"]
    written = resolve(tiny_spec, tmp_path, [{"latent": chosen}, CROWN])
    assert torch.equal(rule.value, written.value)
    values = find_source_values(loaded, 0, model_of(loaded), no_moment)
    latents = LatentStream(1, 8).items([chosen, 3])
    assert torch.equal(torch.cat([value.latent for value in values]), latents)


@pytest.mark.parametrize("at", [None, "layer6", "output"])
def test_pictures_of_checks_and_of_refine_are_those_of_the_rule(
    tiny_spec: Write, tmp_path: Path, at: str | None
) -> None:
    more = {"layer": "layer4", "preserve": [{"latent": 8}], "refine": {"steps": 1, "at": at}}
    candidates = list(range(20, 24))
    sources = [{"nearest": {"latents": candidates}}, CROWN | {"shift": [2, 2]}]
    loaded = read(tiny_spec, tmp_path, sources, **more)
    model = model_of(loaded)
    rule = resolve_rule(loaded, 0, model, no_moment)
    (output,) = expected_outputs(loaded, 0, model, no_moment)
    assert rule.refinement is not None
    difference = (output.wanted - rule.refinement.wanted).abs().max()
    assert (difference < 1e-5) == (at is None)
    (chosen,) = rule.details["nearest"]
    written = [{"latent": chosen}, CROWN | {"shift": [2, 2]}]
    again = resolve(tiny_spec, tmp_path, written, **more)
    assert again.refinement is not None
    assert torch.equal(again.refinement.wanted, rule.refinement.wanted)


@pytest.mark.parametrize("source", [SKY, CROWN, {"erase": {"units": 2}}])
def test_an_observed_value_gives_the_pictures_that_steps_aim_at(
    tiny_spec: Write, tmp_path: Path, source: dict[str, Any]
) -> None:
    fields = {"solver": {"method": "direct", "steps": 1}, "observe": "layer6"}
    fields |= {"layer": "layer4", "preserve": [{"latent": 8}]}
    wanted = {}
    for at in (None, "layer4", "output"):
        loaded = read(tiny_spec, tmp_path, source, **fields, refine={"steps": 1, "at": at})
        rule = resolve_rule(loaded, 0, model_of(loaded), unit_moment)
        assert rule.refinement is not None
        wanted[at] = rule.refinement.wanted
    (output,) = expected_outputs(loaded, 0, model_of(loaded), unit_moment)
    torch.testing.assert_close(wanted[None], output.wanted)
    # Elsewhere other values are pasted, and of what is erased there are no pixels but these.
    assert not torch.allclose(wanted["layer4"], output.wanted, atol=1e-3)
    assert torch.allclose(wanted["output"], output.wanted, atol=1e-5) == ("erase" in source)


def test_what_the_target_shows_already_asks_for_nothing(tiny_spec: Write, tmp_path: Path) -> None:
    targets = {"target": {"latents": [6, 1], "mask": TARGET}}
    own = LatentStream(1, 8).items([1])[0].tolist()
    for source in ({"latent": 1}, {"latent": own}, {"nearest": {"latents": [3, 1]}}):
        rule = resolve(tiny_spec, tmp_path, source)
        assert (rule.details["idle"], rule.details["pairs"]) == ([0], 1)
        assert "idle" not in resolve(tiny_spec, tmp_path, source, target=OTHER).details
    some = resolve(tiny_spec, tmp_path, {"latent": 1}, **targets)
    assert (some.details["idle"], some.details["pairs"]) == ([1], 2)
    # Another place of the same image is a change.
    assert "idle" not in resolve(tiny_spec, tmp_path, CROWN | {"latent": 1}).details


def test_a_check_elsewhere_chooses_the_nearest_of_its_own_images(
    tiny_spec: Write, tmp_path: Path
) -> None:
    candidates = list(range(20, 32))
    path = tiny_spec(tmp_path, layer="layer6", source={"nearest": {"latents": candidates}})
    content = json.loads(path.read_text())
    content["checks"] = [
        {"measure": "efficacy", "at_least": 0, "images": [{"latents": [6, 9], "mask": TARGET}]}
    ]
    path.write_text(json.dumps(content))
    loaded = load(path)
    model = model_of(loaded)
    outputs = list(expected_outputs(loaded, 0, model, no_moment, 0))
    for target, output in zip((6, 9), outputs, strict=True):
        found = distances(loaded, target, candidates, TARGET["box"])
        nearest = candidates[int(found.argmin())]
        own = read(
            tiny_spec, tmp_path, {"latent": nearest}, target={"latent": target, "mask": TARGET}
        )
        (wanted,) = expected_outputs(own, 0, model, no_moment)
        assert torch.equal(output.wanted, wanted.wanted)


def test_every_command_takes_several_copies_of_the_nearest(
    tiny_spec: Write, tmp_path: Path
) -> None:
    sources = [{"nearest": {"latents": [20, 21, 22]}}, CROWN]
    path = tiny_spec(tmp_path, layer="layer6", source=sources)
    compiled = said("compile", path, "-o", tmp_path / "rules", "--device", "cpu")
    (chosen,) = compiled["edits"][0]["nearest"]
    assert (
        f"copied from {chosen}"
        in run("compile", path, "-o", tmp_path / "rules", "--device", "cpu").stdout
    )
    built = said("build", path, "-o", tmp_path / "out", "--device", "cpu")
    assert said("plan", path, "-o", tmp_path / "out")["to_build"] == 0
    patch = Path(built["edits"][0]["patch"])
    verified = said("verify", patch, "--model", tmp_path / "tiny.safetensors", "--spec", path)
    assert verified["patches"][0]["identical"]
    assert (
        run("render", path, "--value", "-o", tmp_path / "v.png", "--device", "cpu").exit_code == 0
    )
    refused = run("export", path, "--format", "record", "-o", tmp_path / "record.json")
    assert refused.exit_code == 2
    assert "a record copies from one image" in refused.stderr


def test_a_mask_of_all_leaves_nothing_alike(tiny_spec: Write, tmp_path: Path) -> None:
    nearest = {"latents": [5, 6], "except": {"box": [0, 0, 16, 16]}}
    loaded = read(tiny_spec, tmp_path, {"nearest": nearest})
    with pytest.raises(SpecError) as error:
        resolve_rule(loaded, 0, model_of(loaded), no_moment)
    (problem,) = error.value.problems
    assert problem.code == Code.MASK_UNFIT
    assert problem.path == ("edits", 0, "source", "nearest", "except")


def test_old_digests_stay(tiny_spec: Write, tmp_path: Path) -> None:
    (edit,) = read(tiny_spec, tmp_path, CROWN).spec.edits
    assert set(edit.model_dump()["source"]) == {"latent", "intervene", "mask"}
