"""Edits of concepts by `build`: the numbers of the authors' programs, and what must hold of any.

tests/golden/diffusion holds what UCE (2024 and 2023) and TIME gave on a tiny pipeline.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec.modalities.text_to_image.adversary import find_adversary
from editspec_compiler.modalities.text_to_image.tokens import open_tokenizer
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.text_to_image.batches import join_prompts
from editspec_runtime.patches.patch import Patch, read_patch

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusion"
RECIPES = Path(__file__).parents[2] / "specs" / "diffusion"
PRECISIONS = {"f64": ("float64", torch.float64, 1e-10), "f32": ("float32", torch.float32, 1e-3)}

Spec = dict[str, Any]


def prompts(*texts: str, **more: Any) -> list[Spec]:
    """Places of prompts."""
    return [{"prompt": text, **more} for text in texts]


def pairs(targets: Sequence[str], sources: Sequence[str], **more: Any) -> list[Spec]:
    """Pairs of one source for each target."""
    both = zip(targets, sources, strict=True)
    return [{"source": {"prompt": b}, "target": {"prompt": a}, **more} for a, b in both]


def debiased(concept: str, male: float, female: float) -> Spec:
    """A concept, and the factors of two attributes that are added to its values."""
    added = [{"prompt": "male", "by": male}, {"prompt": "female", "by": female}]
    return {"source": {"prompt": concept, "add": added}, "target": {"prompt": concept}}


PHRASES = ["{}", "A photo of {}", "An image of {}", "A picture of {}"]
CASES: dict[str, tuple[Spec, Spec]] = {
    "uce-erase": (
        {"compatibility": "uce-2024"},
        {
            "pairs": pairs(["van gogh", "a painting by van gogh"], ["art", "art"]),
            "preserve": prompts("monet", "church", "a photo of a dog"),
        },
    ),
    "uce-replace": (
        {"compatibility": "uce-2024", "statistics": {"ridge": 0.1}},
        {
            "pairs": pairs(["church", "monet"], ["castle", "van gogh"], weight=0.7),
            "preserve": prompts("nurse", "art", weight=0.3),
        },
    ),
    "uce-debias-1": (
        {"compatibility": "uce-2024"},
        {
            "pairs": [debiased("doctor", 0.5, -0.5), debiased("nurse", 0.2, -0.1)],
            "preserve": prompts("church", "dog"),
        },
    ),
    "uce2023-replace": (
        {"compatibility": "uce-2023"},
        {
            "source": {"prompt": "art"},
            "target": {"prompt": "van gogh"},
            "preserve": prompts("monet", weight=0.1),
        },
    ),
    "time": (
        {"compatibility": "time-2023"},
        {
            "pairs": pairs(
                [phrase.format("a church") for phrase in PHRASES],
                [phrase.format("a photo of a church") for phrase in PHRASES],
            )
        },
    ),
}
ERASE = {
    "source": {"prompt": "art"},
    "target": {"prompt": "van gogh"},
    "preserve": prompts("monet", "a photo of a dog"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the pipeline in both precisions."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "pipeline", "f32")
    convert("f64", torch.float64)


def convert(name: str, dtype: torch.dtype) -> Path:
    """A copy of the pipeline in another precision."""
    shutil.copytree(GOLDEN / "pipeline", name)
    for path in Path(name).rglob("*.safetensors"):
        tensors = {key: tensor.to(dtype) for key, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    return Path(name)


def spec_of(*edits: Mapping[str, Any], folder: str = "f64", **common: Any) -> Spec:
    """A spec of edits on a copy of the pipeline."""
    named = [{"name": f"edit{number}", **edit} for number, edit in enumerate(edits)]
    model = {"family": "diffusion", "weights": folder}
    precision = "float64" if folder == "f64" else "float32"
    return {"version": 1, "model": model, "precision": precision, "edits": named, **common}


def build(spec: Mapping[str, Any], out: str = "out") -> list[Patch]:
    """The patches of a spec."""
    Path("spec.json").write_text(json.dumps(spec))
    Path("spec.json.lock").unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    return [read_patch(each.path) for each in editspec.build("spec.json", out).edits if each.path]


def deltas(patch: Patch) -> dict[str, Tensor]:
    """The change of each parameter."""
    return {name: patch.delta(name) for name in patch.parameters}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_numbers_of_the_authors(case: str, precision: str) -> None:
    common, edit = CASES[case]
    (patch,) = build(spec_of(edit, folder=precision, **common))
    golden = load_file(GOLDEN / f"{case}.{precision}.safetensors")
    found = deltas(patch)
    assert found.keys() == {f"unet/{name}" for name in golden}
    for name, wanted in golden.items():
        difference = found[f"unet/{name}"] - wanted
        assert float(difference.norm() / wanted.double().norm()) < PRECISIONS[precision][2]


def test_two_rounds_of_directions_add_up() -> None:
    """UCE's debias accumulates the directions of its rounds: the factors of a spec do so too."""
    common, edit = CASES["uce-debias-1"]
    (patch,) = build(spec_of(edit, **common))
    again = {
        **edit,
        "pairs": [
            {**pair, "source": {**pair["source"], "add": 2 * pair["source"]["add"]}}
            for pair in edit["pairs"]
        ],
    }
    (twice,) = build(spec_of(again, **common))
    for name, change in deltas(patch).items():
        torch.testing.assert_close(twice.delta(name), 2 * change, rtol=1e-9, atol=1e-12)


def test_an_edit_to_itself_is_zero_with_a_bias_too() -> None:
    itself = {"source": {"prompt": "church"}, "target": {"prompt": "church"}}
    (patch,) = build(spec_of(itself))
    assert not any(bool(change.any()) for change in deltas(patch).values())
    file = Path("f64/unet/diffusion_pytorch_model.safetensors")
    tensors = load_file(file)
    biased = {}
    for name, tensor in tensors.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            biased[name.removesuffix("weight") + "bias"] = torch.ones(len(tensor)).double()
    (plain,) = build(spec_of(ERASE))
    save_file(tensors | biased, file)
    (patch,) = build(spec_of(itself))
    assert not any(bool(change.any()) for change in deltas(patch).values())
    # A bias is no part of what is missing.
    (other,) = build(spec_of(ERASE))
    for name, change in deltas(plain).items():
        torch.testing.assert_close(other.delta(name), change, rtol=1e-9, atol=1e-12)


def test_one_d_for_all_layers_of_a_rank_of_the_edited_tokens() -> None:
    edit = ERASE | {"context": prompts("a painting by van gogh")}
    (patch,) = build(spec_of(edit))
    assert patch.metadata["rank"] == 2
    stored = patch.tensors()
    assert [name for name in stored if name.startswith("D.")] == ["D.0"]
    assert stored["D.0"].shape == (2, 24)
    assert len(patch.parameters) == 8
    # A prompt that says the same again adds no direction, and no preserved one does.
    again = edit | {"context": prompts("a painting by van gogh", "a painting by  VAN gogh")}
    (same,) = build(spec_of(again))
    assert same.tensors()["D.0"].shape == (2, 24)
    assert len(patch.to_bytes()) < 12_000


def test_the_order_of_what_is_preserved_does_not_matter() -> None:
    kept = prompts("monet", "church") + prompts("dog", weight=3)
    (patch,) = build(spec_of(ERASE | {"preserve": kept}))
    (turned,) = build(spec_of(ERASE | {"preserve": kept[::-1]}))
    (other,) = build(spec_of(ERASE | {"preserve": kept[:2]}))
    for name, change in deltas(patch).items():
        torch.testing.assert_close(turned.delta(name), change, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(other.delta(name), change, rtol=1e-3)


def test_a_preserved_value_moves_by_less_than_its_share_of_the_objective_allows() -> None:
    """sum_p w_p |dW p|^2 is at most what no change at all costs: |R|^2 over the weight of it."""
    for weight in (0.1, 10.0):
        kept = prompts("monet", "a photo of a dog", weight=weight)
        edit = ERASE | {"preserve": kept}
        (patch,) = build(spec_of(edit, compatibility="uce-2024"))
        rule = read_rule(next(Path("out/rules").iterdir()))
        for each in rule.rules:
            assert each.preserved is not None
            rows, weights = each.preserved.rows()
            before = load_file("f64/unet/diffusion_pytorch_model.safetensors")
            own = before[each.parameter.removeprefix("unet/")]
            missing = each.value[:, 0] - each.key[:, 0] @ own.mT
            moved = rows @ patch.delta(each.parameter).mT
            spent = float((weights[:, None] * moved.square()).sum())
            assert 0 < spent < float(missing.square().sum())


def test_float32_is_close_to_float64() -> None:
    (wide,) = build(spec_of(ERASE))
    (narrow,) = build(spec_of(ERASE, folder="f32"))
    for name, change in deltas(wide).items():
        assert float((narrow.delta(name) - change).norm() / change.norm()) < 1e-3


@pytest.mark.parametrize("tokens", ["last", "content", "all", "aligned"])
def test_tokens_say_which_keys_change(tokens: str) -> None:
    edit = {
        "source": {"prompt": "a photo of a church"},
        "target": {"prompt": "a photo of a dog", "tokens": tokens},
        "solver": "closed-form",
    }
    build(spec_of(edit))
    rule = read_rule(next(Path("out/rules").iterdir())).rules[0]
    # begin and five words are followed by the end and 70 of padding.
    assert len(rule.key) == {"last": 1, "content": 5, "all": 5 + 71, "aligned": 5 + 71}[tokens]


def test_a_closed_form_gives_the_value_itself() -> None:
    Path("spec.json").write_text(json.dumps(spec_of(ERASE | {"solver": "closed-form"})))
    (edit,) = editspec.build("spec.json", "out").edits
    assert edit.residual is not None
    assert edit.residual < 1e-9
    Path("spec.json").write_text(json.dumps(spec_of(ERASE)))
    (edit,) = editspec.build("spec.json", "out").edits
    assert edit.residual is not None
    assert edit.residual > 1e-4


def test_layers_by_groups_and_patterns() -> None:
    def parameters(layers: Any) -> list[str]:
        (patch,) = build(spec_of(ERASE | {"layers": layers}))
        return patch.parameters

    everything = parameters("cross-attention")
    assert parameters("to_v") == [name for name in everything if "to_v" in name]
    found = parameters(["up_blocks.*", "mid_block.*.to_k"])
    assert sorted(name.partition("_block")[0] for name in found) == ["unet/mid", *4 * ["unet/up"]]
    with pytest.raises(editspec.SpecError, match=r"there is no middle\.\* in these weights"):
        parameters(["middle.*"])


def test_prompts_from_files_with_weights() -> None:
    Path("artists.txt").write_text("monet\n\na photo of a dog\n")
    Path("captions.txt").write_text("a church\na castle\n")
    filed = {**ERASE, "preserve": [{"file": "artists.txt", "weight": 0.5}]}
    statistics = {"prompts": "captions.txt", "weight": 2.0, "ridge": 0.5}
    (patch,) = build(spec_of(filed, statistics=statistics))
    written = {**ERASE, "preserve": prompts("monet", "a photo of a dog", weight=0.5)}
    (other,) = build(spec_of(written, statistics=statistics))
    assert patch.metadata["content"] == other.metadata["content"]
    # C = ridge I + weight E[k k^T] over all tokens of the prompts and of the empty one.
    (moment,) = {each.moment for each in editspec.statistics("spec.json").moments[:1]}
    assert float(moment.matrix.trace()) > 0.5 * 24
    Path("captions.txt").write_text("a church\na dog\n")
    assert "files" in editspec.plan("spec.json").to_text() or editspec.plan("spec.json").to_build


def test_a_later_edit_keeps_an_earlier_one_where_it_is_protected() -> None:
    first = {"source": {"prompt": "art"}, "target": {"prompt": "a painting by van gogh"}}
    second = {"source": {"prompt": "dog"}, "target": {"prompt": "a painting by monet"}}
    check = [{"measure": "retention", "at_least": 0.95}]
    found = {}
    for protect in (None, "previous"):
        later = second | ({"protect": protect} if protect else {})
        spec = spec_of(first, later, checks=check)
        Path("spec.json").write_text(json.dumps(spec))
        found[protect] = editspec.check("spec.json").checks[0].value
    assert found["previous"] is not None
    assert found[None] is not None
    assert abs(1 - found["previous"]) < abs(1 - found[None])
    assert found["previous"] > 0.95


def test_checks_measure_what_they_name() -> None:
    edit = ERASE | {"solver": "closed-form"}
    named = [
        {"measure": "efficacy", "at_least": 0.99},
        {"measure": "efficacy", "name": "phrased", "prompts": ["a van gogh church"], "at_least": 0},
        {"measure": "locality", "at_most": 1},
        {"measure": "locality", "name": "begin", "prompts": [""], "at_most": 1},
        {"measure": "resistance", "at_least": 0},
        {"measure": "resistance", "name": "near", "adversary": "target", "at_least": 0},
        {"measure": "finite"},
    ]
    Path("spec.json").write_text(json.dumps(spec_of(edit, checks=named)))
    rows = {row.name: row for row in editspec.check("spec.json").checks}
    assert rows["efficacy"].value == pytest.approx(1, abs=1e-9)
    assert rows["finite"].value == 0
    # A key of the right length brings the old value of a narrow layer back, almost.
    assert 0 <= rows["resistance"].value < 0.9 < rows["near"].value + 1
    assert 0 < rows["locality"].value < 1
    # No change at all: no efficacy, nothing moves, nothing to resist.
    named = [{"measure": "efficacy", "at_least": 0.5}, {"measure": "resistance", "at_least": 0}]
    itself = {"source": {"prompt": "church"}, "target": {"prompt": "church"}}
    Path("spec.json").write_text(json.dumps(spec_of(itself, checks=named)))
    rows = {row.name: row for row in editspec.check("spec.json").checks}
    assert rows["efficacy"].value is None
    assert rows["resistance"].value is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_apply_keeps_the_folder(dtype: torch.dtype) -> None:
    folder = convert("base", dtype)
    (folder / "README.md").write_text("mine\n")
    save_file({"a": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (patch,) = build(spec_of(ERASE, folder="base"))
    applied = editspec.apply("base", ["out"], "edited")
    assert applied.digest == patch.metadata["result"]
    before = {str(path.relative_to("base")): path for path in folder.rglob("*") if path.is_file()}
    after = {str(path.relative_to("edited")) for path in Path("edited").rglob("*")}
    # A variant would not be edited, and is left out.
    assert before.keys() - after == {"unet/diffusion_pytorch_model.fp16.safetensors"}
    weights = "unet/diffusion_pytorch_model.safetensors"
    for name in before.keys() & after - {weights}:
        assert before[name].samefile(Path("edited") / name)
    old, new = load_file(Path("base") / weights), load_file(Path("edited") / weights)
    assert list(old) == list(new)
    changed = {f"unet/{name}" for name in old if not torch.equal(old[name], new[name])}
    assert changed == set(patch.parameters)
    assert all(new[name].dtype == dtype for name in new)
    assert editspec.verify("base", ["out"], "spec.json").verified
    assert editspec.audit("base", "edited", ["out"]).explained
    with pytest.raises(editspec.EditError, match="edited already"):
        editspec.apply("edited", ["out"], "again")
    # Written again over itself, and never over what editspec did not write.
    editspec.apply("base", ["out"], "edited")
    with pytest.raises(editspec.EditError, match="did not write"):
        editspec.apply("base", ["out"], "f32")


def test_apply_to_shards() -> None:
    folder = Path("f32/unet")
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number in (0, 1):
        part = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        own = names[number::2]
        save_file({name: tensors[name] for name in own}, folder / part, {"format": "pt"})
        index |= dict.fromkeys(own, part)
    (patch,) = build(spec_of(ERASE, folder="f32"))
    file.unlink()
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    (sharded,) = build(spec_of(ERASE, folder="f32"), "sharded")
    assert sharded.metadata["content"] == patch.metadata["content"]
    assert editspec.apply("f32", ["sharded"], "edited").digest == patch.metadata["result"]
    assert editspec.apply("f32", ["sharded"], "edited").digest == patch.metadata["result"]
    said = json.loads(Path("edited/unet").glob("*.index.json").__next__().read_text())
    assert said["weight_map"] == index
    assert len(list(Path("edited/unet").glob("*-of-00002.safetensors"))) == 2
    editspec.build("spec.json", "sharded", provenance=True)
    statement = json.loads(Path("sharded/provenance.json").read_text())
    definition = statement["predicate"]["buildDefinition"]
    named = {each["name"] for each in definition["resolvedDependencies"]}
    assert {
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/model.safetensors",
    } <= named


def test_a_lora_draws_what_the_edited_weights_draw() -> None:
    diffusers = pytest.importorskip("diffusers")
    strong = {"pairs": pairs(["van gogh", "monet"], ["church", "dog"]), "solver": "closed-form"}
    first = {**strong, "layers": "to_v"}
    build(spec_of(first, ERASE, folder="f32"))
    editspec.apply("f32", ["out"], "edited")

    def draw(folder: str, adapter: str = "") -> Tensor:
        made = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        made.set_progress_bar_config(disable=True)
        if adapter:
            made.load_lora_weights(adapter)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        found = made("van gogh", latents=noise, num_inference_steps=3, output_type="pt")
        return found.images

    edited, base = draw("edited"), draw("f32")
    assert float((edited - base).abs().max()) > 1e-3
    for form in ("diffusers", "kohya"):
        exported = editspec.export(["out"], form, form)
        assert exported.out == Path(form) / "pytorch_lora_weights.safetensors"
        assert float((draw("f32", form) - edited).abs().max()) < 1e-5
    editspec.export(["out"], "kohya", "mine.safetensors")
    names = set(load_file("mine.safetensors"))
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert {f"{stem}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")} <= names


def test_pictures_before_and_after() -> None:
    pytest.importorskip("diffusers")
    pictures = {"prompts": ["van gogh", "a church"], "steps": 2, "guidance": 2}
    checks = [{"measure": "locality", "of": "pictures", "prompts": ["a dog"], "at_most": 1}]
    strong = ERASE | {"solver": "closed-form", "layers": "to_v"}
    spec = spec_of(strong, folder="f32", pictures=pictures, checks=checks)
    Path("spec.json").write_text(json.dumps(spec))
    first = editspec.render("spec.json", "first.png", count=2).picture
    again = editspec.render("spec.json", "again.png", count=2).picture
    other = editspec.render("spec.json", "other.png", count=2, seed=9).picture
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.tobytes() == again.tobytes() != other.tobytes()
    (row,) = editspec.check("spec.json").checks
    assert row.value is not None
    assert 0 < row.value < 1
    built = editspec.build("spec.json", "out", report=True)
    assert built.report is not None
    assert "van gogh" in built.report.read_text()
    # How pictures are drawn has no effect on edits.
    spec["pictures"]["steps"] = 3
    Path("spec.json").write_text(json.dumps(spec))
    assert not editspec.plan("spec.json").to_build


def test_mace_s_refinement_with_a_prior_over_captions() -> None:
    """R^T K (ridge I + weight E[k k^T] + K^T K)^-1 over the tokens that both sentences share."""
    pairs_of = [("a photo of a church", "a photo of a dog"), ("the church", "the dog at night")]
    edit = {
        "pairs": [
            {"source": {"prompt": new}, "target": {"prompt": old, "tokens": "aligned"}}
            for old, new in pairs_of
        ]
    }
    captions = ["a castle", "a photo of a nurse"]
    Path("captions.txt").write_text("\n".join(captions))
    statistics = {"prompts": "captions.txt", "weight": 3.0, "ridge": 0.2}
    (patch,) = build(spec_of(edit, compatibility="uce-2024", statistics=statistics))
    tokenizer = open_tokenizer(Path("f64"))
    model = make_model(
        "diffusion", read_weights(Path("f64")), origin=Origin(Path("f64")), precision="float64"
    )

    def encode(text: str) -> tuple[tuple[int, ...], Tensor]:
        found = tokenizer.encode(text)
        return found.own, model.encode(join_prompts([found.tokens]))[0]

    keys, guides = [], []
    for old, new in pairs_of:
        (first, old_keys), (second, new_keys) = encode(old), encode(new)
        begin = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        end = next(n for n in range(1, 9) if first[-n] != second[-n]) - 1
        length = 77 - max(len(first), len(second)) + end
        starts = len(first) - end, len(second) - end
        keys += [old_keys[:begin], old_keys[starts[0] : starts[0] + length]]
        guides += [new_keys[:begin], new_keys[starts[1] : starts[1] + length]]
    edited, wanted = torch.cat(keys), torch.cat(guides)
    prior = torch.cat([encode(text)[1] for text in captions])
    moment = 0.2 * torch.eye(24).double() + 3.0 * prior.mT @ prior / len(prior)
    weights = load_file("f64/unet/diffusion_pytorch_model.safetensors")
    for name, change in deltas(patch).items():
        missing = (wanted - edited) @ weights[name.removeprefix("unet/")].mT
        closed = missing.mT @ edited @ torch.linalg.inv(moment + edited.mT @ edited)
        assert float((change - closed).norm() / closed.norm()) < 1e-10


@pytest.mark.parametrize("kind", ["regzero", "both", "target"])
def test_an_adversary_minimises_what_it_says(kind: str) -> None:
    """Its key is where the gradient of its objective is zero."""
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(40, 6, generator=generator).double() for _ in range(2))
    keys, held = (torch.randn(3, 6, generator=generator).double() for _ in range(2))
    found = find_adversary(kind, 0.3, keys, before, after, held).requires_grad_()
    lost = (found @ after.mT - keys @ before.mT).square().sum()
    if kind == "both":
        near = ((found - keys) @ after.mT).square().sum() + (found - keys).square().sum()
    else:
        near = (found - (held if kind == "target" else 0)).square().sum()
    (gradient,) = torch.autograd.grad(lost + 0.3 * near, found)
    assert float(gradient.abs().max()) < 1e-9
    # Anything else is worse.
    assert float((found.detach() - keys).abs().max()) > 1e-3


def test_fewer_directions_than_edited_tokens_and_other_methods() -> None:
    edit = ERASE | {"context": prompts("a painting by van gogh", "a photo by van gogh")}
    (patch,) = build(spec_of(edit | {"rank": 1, "directions": "zca"}))
    assert patch.metadata["rank"] == 1
    assert [name for name in patch.tensors() if name.startswith("D.")] == ["D.0"]
    (patch,) = build(spec_of(edit | {"solver": {"method": "null-space", "threshold": 2.0}}))
    assert patch.metadata["rank"] == 3
    only = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    (patch,) = build(spec_of({**edit, "layer": only}))
    assert patch.parameters == [f"unet/{only}.weight"]
    (patch,) = build(spec_of({**edit, "solver": {"method": "least-squares", "collateral": 0.01}}))
    assert all(0 < each["independent"] <= 0.01 for each in patch.metadata["collateral"].values())


def test_a_plan_of_many_layers_solves_nothing() -> None:
    Path("spec.json").write_text(json.dumps(spec_of(ERASE, ERASE | {"protect": "previous"})))
    planned = editspec.plan("spec.json")
    assert planned.to_build == 2
    assert "8 layers from" in planned.to_text()
    cached = {
        path.parent.name for path in Path(os.environ["EDITSPEC_CACHE"]).rglob("*.safetensors")
    }
    assert not cached & {"solutions", "patches"}


def test_a_folder_is_written_as_a_folder() -> None:
    build(spec_of(ERASE))
    for name in ("edited.safetensors", "edited.pt"):
        with pytest.raises(UsageError, match="no single file"):
            editspec.apply("f64", ["out"], name)
    assert editspec.apply("f64", ["out"], "sd-1.5-edited").out == Path("sd-1.5-edited")
    assert Path("sd-1.5-edited/unet/config.json").is_file()
    with pytest.raises(UsageError, match="no single file"):
        editspec.convert("f64", "all.safetensors")


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_recipes_build(recipe: str) -> None:
    """Each names a folder beside it; here that is the tiny pipeline."""
    shutil.copy(RECIPES / f"{recipe}.yaml", "spec.yaml")
    shutil.copy(RECIPES / "captions.txt", "captions.txt")
    shutil.move("f32", "sd-1-5")
    shown = editspec.validate("spec.yaml").to_text()
    assert "the edited tokens are in brackets" in shown
    (edit,) = editspec.build("spec.yaml", "out").edits
    assert len(edit.patch.parameters) == 8
    assert edit.residual is not None
    assert edit.residual < 1


def make_second(folder: Path) -> Any:
    """A tiny Stable Diffusion 2: another activation and padding, linear layers about attention."""
    diffusers, library = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained("f32", safety_checker=None)
    settings = pipeline.text_encoder.config.to_dict()
    settings |= {"hidden_act": "gelu", "hidden_size": 32, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        encoder = library.CLIPTextModel(library.CLIPTextConfig(**settings))
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            # In the middle the picture is as wide as the text.
            cross_attention_dim=32,
            attention_head_dim=(2, 4),
            norm_num_groups=8,
            use_linear_projection=True,
        )
    made = diffusers.StableDiffusionPipeline(
        pipeline.vae,
        encoder,
        library.CLIPTokenizer.from_pretrained("f32/tokenizer", pad_token="a"),
        unet,
        pipeline.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    made.save_pretrained(folder)
    return made


def test_stable_diffusion_2_with_its_own_padding() -> None:
    made = make_second(Path("sd2"))
    whole = {**ERASE, "target": {"prompt": "van gogh", "tokens": "all"}}
    (patch,) = build(spec_of(whole, folder="sd2"))
    layers = [name for name in patch.parameters if ".attn2." in name]
    assert len(layers) == len(patch.parameters) == 8
    rule = read_rule(next(Path("out/rules").iterdir())).rules[0]
    states, *_ = made.encode_prompt("van gogh", "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(rule.key[:, 0], states[0, 1:], rtol=1e-4, atol=1e-5)
    # Padded as Stable Diffusion 1 is, the tokens behind the words are others.
    assert float((rule.key[-1, 0] - states[0, 3]).detach().abs().max()) > 1e-2


def make_xl(folder: Path) -> Any:
    """A tiny Stable Diffusion XL: two encoders, of which the second pads with another token."""
    diffusers, library = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained("f32", safety_checker=None)
    settings = pipeline.text_encoder.config.to_dict() | {"hidden_size": 32, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        second = library.CLIPTextModelWithProjection(library.CLIPTextConfig(**settings))
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=24 + 32,
            attention_head_dim=4,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        )
    tokenizer = library.CLIPTokenizer.from_pretrained("f32/tokenizer", pad_token="a")
    made = diffusers.StableDiffusionXLPipeline(
        pipeline.vae,
        pipeline.text_encoder,
        second,
        pipeline.tokenizer,
        tokenizer,
        unet,
        pipeline.scheduler,
    )
    made.save_pretrained(folder)
    return made


def test_stable_diffusion_xl_with_both_encoders() -> None:
    made = make_xl(Path("xl"))
    (patch,) = build(spec_of(ERASE, folder="xl"))
    assert patch.tensors()["D.0"].shape == (1, 56)
    rule = read_rule(next(Path("out/rules").iterdir())).rules[0]
    states, *_ = made.encode_prompt("van gogh", do_classifier_free_guidance=False)
    torch.testing.assert_close(rule.key[0, 0], states[0, 2], rtol=1e-4, atol=1e-5)
    # The padding of the second encoder is its own.
    whole = {**ERASE, "target": {"prompt": "van gogh", "tokens": "all"}}
    build(spec_of(whole, folder="xl"))
    rule = read_rule(next(Path("out/rules").iterdir())).rules[0]
    torch.testing.assert_close(rule.key[-1, 0], states[0, -1], rtol=1e-4, atol=1e-5)
    shutil.rmtree("xl/text_encoder_2")
    with pytest.raises(editspec.EditError, match="text_encoder_2"):
        editspec.validate("spec.json")


def test_a_vocabulary_and_merges_give_the_tokens_of_the_library(tmp_path: Path) -> None:
    """Older folders have no tokenizer.json."""
    library = pytest.importorskip("transformers")
    whole = json.loads(Path("f32/tokenizer/tokenizer.json").read_text())["model"]
    texts = ["A painting by Van Gogh!", "it's  a 12th church\n", "", "don't, château"]
    wanted = library.CLIPTokenizer.from_pretrained("f32/tokenizer")(texts).input_ids
    Path("f32/tokenizer/tokenizer.json").unlink()
    Path("f32/tokenizer/vocab.json").write_text(json.dumps(whole["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in whole["merges"])
    Path("f32/tokenizer/merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    tokenizer = open_tokenizer(Path("f32"))
    assert [list(tokenizer.encode(text).own) for text in texts] == wanted
