from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from editspec_compiler import SpecError, load
from editspec_compiler.digests import edit_digest
from editspec_compiler.modalities.image.places import moment_of
from editspec_compiler.modalities.image.resolve import compile_edit
from editspec_runtime.core.method import KeyStatistics
from editspec_runtime.core.rule import LayerRule, PreservedKeys, Refinement, ResolvedEdit
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.files import write
from editspec_runtime.methods.layer_problem import find_directions, rule_function
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.image.compatibility import compatibility_of
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.latents import LatentStream

GoldenSpec = Callable[..., dict[str, Any]]


def compiled(data: dict[str, Any], folder: Path) -> tuple[LayerRule, Generator]:
    edit, generator = resolved(data, folder)
    (rule,) = edit.rules
    return rule, generator


def resolved(data: dict[str, Any], folder: Path) -> tuple[ResolvedEdit, Generator]:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(data))
    loaded = load(path)
    generator = make_model(
        "stylegan2",
        read_weights(loaded.weights).tensors,
        precision=loaded.spec.precision,
        compatibility=compatibility_of(loaded.spec.compatibility),
    )
    edit = compile_edit(loaded, 0, "base", "parent", moment_of(loaded, default_cache()))
    return edit.with_rules([resolve(generator) for resolve in edit.rules]), generator


@pytest.mark.parametrize("number", [4, 6, 7, 8])
def test_k_and_v_are_the_authors(
    golden_spec: GoldenSpec, golden: dict[str, dict[str, Tensor]], tmp_path: Path, number: int
) -> None:
    rule, _ = compiled(golden_spec(f"layer{number}", {"method": "direct"}), tmp_path)
    stages = golden["sg2_stages_f64"]
    key, value = rule.key[:, :, 1:-1, 1:-1], rule.value
    for found, name in ((key, "goal_in"), (value, "goal_out")):
        wanted = stages[f"L{number}.{name}.default"]
        assert (found - wanted).norm() / wanted.norm() < 1e-12
    assert not rule.key[:, :, 0].any()  # their crop is tight: zeros around it


@pytest.mark.parametrize("number", [4, 6, 7, 8])
@pytest.mark.parametrize(
    ("method", "rank"), [("zca", 1), ("zca", 3), ("zca", 10), ("mean", 1), ("svd", 3)]
)
def test_directions_are_the_authors(
    golden_spec: GoldenSpec,
    golden: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    number: int,
    method: str,
    rank: int,
) -> None:
    data = golden_spec(f"layer{number}", {"method": "direct"}, rank)
    data["edits"][0]["directions"] = method
    rule, _ = compiled(data, tmp_path)
    stages = golden["sg2_stages_f64"]
    keys = KeyStatistics(
        lambda: stages[f"L{number}.C.batch10"], lambda: pytest.fail("no units are ranked")
    )
    found, wanted = (
        find_directions(rule, method, rank, keys),
        stages[f"L{number}.D.{method}.rank{rank}"],
    )
    # The authors' svd leaves the signs as they come; a change A D does not depend on them.
    wanted = (
        wanted * torch.sign((wanted * found).sum(1, keepdim=True)) if method == "svd" else wanted
    )
    assert (found - wanted).norm() < 1e-9
    other = stages[f"L{number}.D.{'svd.rank3' if method == 'zca' else 'zca.rank' + str(rank)}"]
    assert (found[:3].abs() - other[: len(found)].abs()).norm() > 1e-3


@pytest.fixture
def tiny_spec(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    save_file(make_tiny(size=64), tmp_path / "tiny.safetensors")

    def make(
        layer: str, source: dict[str, Any], target: dict[str, Any], **fields: Any
    ) -> dict[str, Any]:
        return {
            "version": 1,
            "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
            "edits": [{"name": "e", "layer": layer, "source": source, "target": target, **fields}],
        }

    return make


@pytest.mark.parametrize("layer", [f"layer{n}" for n in range(2, 11)])
def test_the_identity_edit_changes_no_value(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path, layer: str
) -> None:
    place = {"latent": 3, "mask": {"ellipse": [9, 20, 37, 51]}}
    rule, generator = compiled(tiny_spec(layer, place, place), tmp_path)
    value = generator.function(layer)(rule.key, generator.weight(layer), rule.arguments)
    assert (value - rule.value).abs().max() < 1e-5
    other = tiny_spec(layer, {**place, "latent": 4}, place)
    rule, _ = compiled(other, tmp_path)
    assert (value - rule.value).abs().max() > 1e-2


def test_the_paste_lands_centred_on_the_target_and_inside(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    source = {"latent": 1, "mask": {"box": [0, 0, 12, 8]}}
    for box, wanted in (
        ([30, 30, 34, 34], [30, 26, 34, 38]),
        ([0, 0, 2, 2], [0, 0, 4, 12]),
        ([62, 62, 64, 64], None),
    ):
        target = {"latent": 2, "mask": {"box": box}}
        rule, _ = compiled(tiny_spec("layer9", source, target), tmp_path)
        region = rule.details["region"]
        # layer9 upsamples: its regions are in key positions, two pixels each.
        height, width = region[2] - region[0], region[3] - region[1]
        assert (height, width) == (4, 6)
        if wanted is None:
            assert region[2:] == [32, 32]
        elif wanted[0] == 0:
            assert region[:2] == [0, 0]
        else:
            assert abs((region[0] + region[2]) - 32) <= 1
            assert abs((region[1] + region[3]) - 32) <= 1


def test_values_outside_of_the_mask_stay_the_targets(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    source = {"latent": 1, "mask": {"polygon": [[8, 8], [24, 8], [8, 24]]}}
    rule, generator = compiled(
        tiny_spec("layer10", source, {"latent": 2, "mask": {"box": [8, 8, 24, 24]}}), tmp_path
    )
    under = generator.function("layer10")(rule.key, generator.weight("layer10"), rule.arguments)
    difference = (rule.value - under).abs().sum(1)[0]
    assert difference[-1, -1] < 1e-5  # the far corner of the triangle's box
    assert difference[0, 0] > 1e-2


def test_context_keys_and_weights(tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    place = {"latent": 3, "mask": {"box": [8, 8, 16, 16]}}
    soft = {"latent": 5, "mask": {"box": [0, 0, 3, 2]}}
    data = tiny_spec("layer8", place, place, context=[place, soft])
    rule, _ = compiled(data, tmp_path)
    assert len(rule.context_keys) == 16 + 2
    assert rule.context_weights.tolist() == [1.0] * 17 + [0.5]
    alone, _ = compiled(tiny_spec("layer8", place, place), tmp_path)
    torch.testing.assert_close(alone.context_keys, rule.context_keys[:16])


def test_a_context_has_weights_and_exclusions_and_several_regions_of_an_image(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 3, "mask": {"box": [8, 8, 16, 16]}}
    beside = {"latent": 3, "mask": {"box": [32, 8, 40, 16]}, "weight": 2.5}
    cut = {"latent": 3, "mask": {"box": [8, 8, 40, 16]}, "exclude": {"box": [16, 8, 32, 16]}}
    apart, _ = compiled(tiny_spec("layer8", place, place, context=[place, beside]), tmp_path)
    assert apart.context_weights.tolist() == [1.0] * 16 + [2.5] * 16
    together, _ = compiled(tiny_spec("layer8", place, place, context=[cut]), tmp_path)
    assert together.context_weights.tolist() == [1.0] * 32
    assert {tuple(key.tolist()) for key in together.context_keys} == {
        tuple(k.tolist()) for k in apart.context_keys
    }
    everything = {**cut, "exclude": {"box": [0, 0, 64, 64]}}
    with pytest.raises(SpecError, match="nothing of the mask outside of what it excludes is left"):
        compiled(tiny_spec("layer8", place, place, context=[everything]), tmp_path)


def erasing(units: int) -> dict[str, Any]:
    return {"erase": {"units": units}}


@pytest.mark.parametrize("layer", ["layer5", "layer8"])
def test_an_erased_value_is_that_of_a_key_without_its_units(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path, layer: str
) -> None:
    whole, round_ = (
        {"latent": 3, "mask": {"box": [0, 0, 64, 64]}},
        {"latent": 3, "mask": {"ellipse": [9, 9, 47, 47]}},
    )
    data = {"statistics": {"samples": 8}} | tiny_spec(layer, erasing(2), whole)
    rule, generator = compiled(data, tmp_path)
    function, weight = generator.function(layer), generator.weight(layer)
    key = rule.key.clone()
    key[:, list(rule.units)] = 0
    erased = function(key, weight, rule.arguments)
    own = function(rule.key, weight, rule.arguments)
    torch.testing.assert_close(rule.value, erased)
    assert (own - erased).abs().max() > 1e-2
    # Outside of the mask, and without units, nothing is erased.
    data["edits"][0]["target"] = round_
    inside, _ = compiled(data, tmp_path)
    own = function(inside.key, weight, inside.arguments)
    assert (inside.value - own)[0, :, 0, 0].abs().max() < 1e-5
    assert (inside.value - own).abs().max() > 1e-2
    data["edits"][0]["source"] = erasing(0)
    nothing, _ = compiled(data, tmp_path)
    torch.testing.assert_close(nothing.value, own, rtol=1e-5, atol=1e-5)


def test_more_units_than_there_are_is_found(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 3, "mask": {"box": [0, 0, 64, 64]}}
    with pytest.raises(SpecError, match="layer6 has 6 units in its key, and 7 are to be erased"):
        compiled(tiny_spec("layer6", erasing(7), place), tmp_path)


def test_without_a_mask_the_source_gives_what_lies_at_the_same_place(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    target = {"latent": 2, "mask": {"box": [8, 16, 24, 40]}}
    here, _ = compiled(tiny_spec("layer6", {"latent": 1}, target), tmp_path)
    masked, _ = compiled(
        tiny_spec("layer6", {"latent": 1, "mask": target["mask"]}, target), tmp_path
    )
    torch.testing.assert_close(here.value, masked.value)
    elsewhere, _ = compiled(
        tiny_spec("layer6", {"latent": 1, "mask": {"box": [0, 0, 16, 24]}}, target), tmp_path
    )
    assert (here.value - elsewhere.value).abs().max() > 1e-2


def swapped(one: int, other: int, mask: dict[str, Any]) -> list[dict[str, Any]]:
    """Two pairs that swap what two images show at one place."""
    return [
        {"source": {"latent": a}, "target": {"latent": b, "mask": mask}}
        for a, b in ((one, other), (other, one))
    ]


def with_pairs(tiny: dict[str, Any], pairs: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    edit = {
        name: value for name, value in tiny["edits"][0].items() if name not in ("source", "target")
    }
    return {**tiny, "edits": [edit | {"pairs": pairs} | fields]}


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_pairs_are_the_rules_of_each_in_one_batch(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path, layer: str
) -> None:
    place = {"latent": 1, "mask": {"box": [8, 16, 24, 40]}}
    pairs = swapped(1, 2, {"box": [8, 16, 24, 40]})
    pairs[1]["target"]["mask"] = {"box": [16, 16, 32, 40]}
    joined, generator = compiled(with_pairs(tiny_spec(layer, place, place), pairs), tmp_path)
    alone = [
        compiled(tiny_spec(layer, pair["source"], pair["target"]), tmp_path)[0] for pair in pairs
    ]
    assert torch.equal(joined.key, torch.cat([rule.key for rule in alone]))
    assert torch.equal(joined.value, torch.cat([rule.value for rule in alone]))
    assert joined.details["region"] == [rule.details["region"] for rule in alone]
    # Without context, the targets of all pairs are it.
    assert len(joined.context_keys) == sum(len(rule.context_keys) for rule in alone)
    # Each image has its own style, and each crop its own noise.
    weight = generator.weight(layer)
    both = generator.function(layer)(joined.key, weight, joined.arguments)
    for index, rule in enumerate(alone):
        one = generator.function(layer)(rule.key, weight, rule.arguments)
        torch.testing.assert_close(both[index : index + 1], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["layer5", "layer6"])
def test_pairs_of_other_sizes_grow_to_the_largest_and_keep_their_values_there(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path, layer: str
) -> None:
    place = {"latent": 1, "mask": {"box": [0, 0, 64, 64]}}
    pairs = swapped(1, 2, {"box": [0, 0, 16, 64]})
    pairs[1]["target"]["mask"] = {"box": [0, 0, 64, 8]}
    rule, generator = compiled(with_pairs(tiny_spec(layer, place, place), pairs), tmp_path)
    size, scale = generator.layer(layer).key_size, generator.layer(layer).scale
    assert rule.details["region"] == [[0, 0, size, size]] * 2
    one, two = generator.layer_value(
        layer, generator.trace(layer, LatentStream(1, 8).items([2, 1]))
    )
    left, top = size * scale // 4, size * scale // 8
    near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    near(rule.value[0, :, :, :left], two[:, :, :left])
    near(rule.value[0, :, :, left:], one[:, :, left:])
    near(rule.value[1, :, :top], one[:, :top])
    near(rule.value[1, :, top:], two[:, top:])
    assert (one - two).abs().max() > 1e-2


def test_an_observed_rule_sees_the_whole_map_of_the_later_layer(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 1, "mask": {"box": [8, 16, 24, 40]}}
    pairs = swapped(1, 2, {"box": [8, 16, 24, 40]}) + swapped(3, 4, {"ellipse": [0, 0, 40, 20]})
    solver = "projected-gradient"
    data = with_pairs(tiny_spec("layer5", place, place, solver=solver), pairs, observe="layer8")
    rule, generator = compiled(data, tmp_path)
    assert rule.value.shape == (4, 6, 32, 32)
    assert rule.key.shape == (4, 6, 10, 10)
    seen = rule_function(rule, generator)(rule.key, generator.weight("layer5"), rule.arguments)
    own = generator.layer_value(
        "layer8", generator.trace("layer8", LatentStream(1, 8).items([2, 1, 4, 3]))
    )
    torch.testing.assert_close(seen, own, rtol=1e-4, atol=1e-4)
    # Inside of the mask stands what the other image shows there; outside of it nothing changes.
    torch.testing.assert_close(
        rule.value[0, :, 8:20, 4:12], own[1, :, 8:20, 4:12], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(rule.value[0, :, :, 12:], own[0, :, :, 12:], rtol=1e-4, atol=1e-4)
    assert (rule.value[0] - own[0]).abs().max() > 1e-2
    edit, _ = resolved(data, tmp_path)
    write(tmp_path / "r.safetensors", edit.to_bytes())
    read = read_rule(tmp_path / "r.safetensors")
    assert read.to_bytes() == edit.to_bytes()
    assert read.rules[0].observe == "layer8"


def test_an_intervention_sets_units_inside_its_mask(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 1, "mask": {"box": [0, 0, 64, 64]}}
    change = {"layer": "layer4", "units": [1, 3], "value": 7.0, "mask": {"box": [16, 0, 32, 64]}}
    plain, _ = compiled(tiny_spec("layer5", place, place), tmp_path)
    changed, _ = compiled(tiny_spec("layer5", place, {**place, "intervene": change}), tmp_path)
    # layer5 sees the output of layer4, modulated: the rest of the map and of the units is as it
    # was.
    difference = (changed.key - plain.key)[0, :, 1:-1, 1:-1]
    assert not difference[[0, 2, 4, 5]].any()
    assert not difference[:, :, [0, 1, 4, 5, 6, 7]].any()
    style = plain.arguments["style"][0, [1, 3], None, None]
    torch.testing.assert_close(changed.key[0, [1, 3], 1:-1, 3:5], (7 * style).expand(2, 8, 2))
    assert difference.abs().max() > 1e-2
    # And all that follows is drawn from it.
    later, _ = compiled(tiny_spec("layer8", place, {**place, "intervene": change}), tmp_path)
    assert (
        later.key - compiled(tiny_spec("layer8", place, place), tmp_path)[0].key
    ).abs().max() > 1e-2


def test_latents_by_number_vector_and_file_are_the_same(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    import numpy as np

    vector = LatentStream(1, 8).items([6])[0]
    np.save(tmp_path / "z.npy", vector.numpy())
    save_file({"a": torch.zeros(8), "z": vector}, tmp_path / "z.safetensors")
    rules = []
    for latent in (6, vector.tolist(), {"file": "z.npy"}, {"file": "z.safetensors", "key": "z"}, 7):
        place = {"latent": latent, "mask": {"box": [8, 8, 16, 16]}}
        rules.append(compiled(tiny_spec("layer6", place, place), tmp_path)[0])
    assert all(torch.equal(rule.value, rules[0].value) for rule in rules[:4])
    assert not torch.equal(rules[4].value, rules[0].value)


def test_a_rule_survives_its_file(tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    place = {"latent": 3, "mask": {"box": [8, 8, 16, 16]}}
    edit, _ = resolved(tiny_spec("layer6", place, place), tmp_path)
    again, _ = resolved(tiny_spec("layer6", place, place), tmp_path)
    assert edit.to_bytes() == again.to_bytes()
    write(tmp_path / "r.safetensors", edit.to_bytes())
    read = read_rule(tmp_path / "r.safetensors")
    assert read.to_bytes() == edit.to_bytes()
    assert read.method == edit.method


def test_a_rule_of_several_layers_and_preserved_keys_survives_its_file(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 3, "mask": {"box": [8, 8, 16, 16]}}
    edit, _ = resolved(tiny_spec("layer6", place, place), tmp_path)
    later, _ = compiled(tiny_spec("layer8", place, {**place, "latent": 4}), tmp_path)
    maps, shares = 2 * later.context_keys[None], torch.full((1, len(later.context_keys)), 0.1)
    preserved = PreservedKeys(maps, {"style": torch.ones(1, 2)}, shares, 2 * shares)
    pictures = torch.ones(2, 3, 4, 4)
    refinement = Refinement(
        pictures[:, 0, 0], pictures, pictures[:1, 0, 1], pictures[:1], 7, 0.5, 3.0
    )
    later = replace(later, preserved=preserved, refinement=refinement, units=(3, 1))
    both = replace(edit, rules=(*edit.rules, later))
    write(tmp_path / "r.safetensors", both.to_bytes())
    read = read_rule(tmp_path / "r.safetensors")
    assert read.to_bytes() == both.to_bytes() != edit.to_bytes()
    assert read.layers == ["layer6", "layer8"]
    first, second = read.rules
    assert first.preserved is None
    assert first.refinement is None
    assert second.preserved is not None
    assert torch.equal(second.preserved.key, maps)
    assert torch.equal(second.preserved.value_weights, 2 * shares)
    assert set(second.preserved.arguments) == {"style"}
    assert second.refinement is not None
    assert second.refinement.to_json() == refinement.to_json()
    assert torch.equal(second.refinement.wanted, pictures)
    assert second.units == (3, 1)
    assert torch.equal(second.value, later.value)
    assert set(second.arguments) == set(later.arguments)
    lost = replace(both, provenance={})
    assert read_rule(tmp_path / "r.safetensors").to_bytes() != lost.to_bytes()


def test_the_digest_of_an_edit_is_that_of_what_it_means(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    place = {"latent": 3, "mask": "m.png"}
    data = tiny_spec("layer6", place, place)

    def digest(text: str) -> str:
        (tmp_path / "s.yaml").write_text(text)
        return edit_digest(load(tmp_path / "s.yaml"), 0)

    first = digest(yaml.safe_dump(data))
    assert digest("# a comment\n" + yaml.safe_dump(data, default_flow_style=True)) == first
    assert (
        digest(yaml.safe_dump(tiny_spec("layer6", place, place, rank=1, solver="least-squares")))
        == first
    )
    assert digest(yaml.safe_dump(tiny_spec("layer6", place, place, rank=2))) != first
    assert digest(yaml.safe_dump({**data, "statistics": {"samples": 9}})) != first
    Image.new("L", (8, 8), 254).save(tmp_path / "m.png")
    assert digest(yaml.safe_dump(data)) != first


def test_a_rank_above_the_context_is_found_before_any_solving(
    tiny_spec: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    place = {"latent": 3, "mask": {"box": [8, 8, 12, 12]}}
    with pytest.raises(SpecError, match="rank 5 is more than the 4 keys"):
        compiled(tiny_spec("layer8", place, place, rank=5), tmp_path)
    compiled(tiny_spec("layer8", place, place, rank=4), tmp_path)
