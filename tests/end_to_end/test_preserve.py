"""What an edit must not touch, from the spec to the patch, on a tiny StyleGAN2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from editspec_compiler import load
from editspec_compiler.digests import edit_digest
from editspec_runtime.families.stylegan2.network import StyleGAN2
from editspec_runtime.methods.refine import weigh_outputs
from editspec_runtime.modalities.image.latents import LatentStream
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

Write = Callable[..., Path]

LEARNED = {
    "rank": 2,
    "directions": "learned",
    "solver": {"method": "least-squares", "collateral_weight": 0.3},
}
FULL = {"rank": "full", "solver": {"method": "least-squares", "collateral_weight": 0.3}}
PRESERVE = [{"latents": [5, 6], "mask": {"box": [0, 8, 16, 16]}}, {"latent": 7, "weight": 2}]


def build(path: Path, name: str = "out") -> list[Path]:
    """Build a spec; return its patches."""
    built = said("build", path, "-o", path.parent / name, "--device", "cpu")
    return [Path(edit["patch"]) for edit in built["edits"]]


def pictures(folder: Path, patches: list[Path], latents: list[int]) -> Tensor:
    """The pictures of latents with patches applied."""
    weights = load_file(folder / "tiny.safetensors")
    if patches:
        target = folder / "edited.safetensors"
        said("apply", *patches, "--model", folder / "tiny.safetensors", "-o", target)
        weights = load_file(target)
    with torch.no_grad():
        return StyleGAN2(weights).outputs(LatentStream(1, 8).items(latents))


@pytest.mark.parametrize("fields", [LEARNED, FULL, {"rank": 2}], ids=["learned", "full", "direct"])
def test_an_edit_that_preserves_goes_through_every_command(
    tiny_spec: Write, tmp_path: Path, fields: dict[str, Any]
) -> None:
    path = tiny_spec(tmp_path, **fields, preserve=PRESERVE)
    (patch,) = build(path)
    assert said("plan", path, "-o", tmp_path / "out")["to_build"] == 0
    verified = said("verify", patch, "--model", tmp_path / "tiny.safetensors", "--spec", path)
    assert verified["patches"][0]["identical"]
    (again,) = build(path, "again")
    assert again.read_bytes() == patch.read_bytes()
    stored = read_patch(patch)
    assert stored.metadata["rank"] == (None if fields is FULL else 2)
    if fields is not FULL:
        (directions,) = stored.directions.values()
        assert torch.allclose(directions @ directions.T, torch.eye(2), atol=1e-6)
    without = tiny_spec(tmp_path, **fields)
    (other,) = build(without, "without")
    assert other.read_bytes() != patch.read_bytes()


def test_latents_of_one_place_are_places_of_one_latent_each(
    tiny_spec: Write, tmp_path: Path
) -> None:
    mask = {"box": [0, 8, 16, 16]}
    one = {"latents": [5, 6], "mask": mask}
    each = [{"latent": 5, "mask": mask}, {"latent": 6, "mask": mask}]
    (first,) = build(tiny_spec(tmp_path, **LEARNED, preserve=[one]))
    found = load_file(first)
    (second,) = build(tiny_spec(tmp_path, **LEARNED, preserve=each), "each")
    assert all(torch.equal(found[name], tensor) for name, tensor in load_file(second).items())
    (third,) = build(tiny_spec(tmp_path, **LEARNED, preserve=each[:1]), "less")
    assert not all(torch.equal(found[name], tensor) for name, tensor in load_file(third).items())


def test_places_of_one_image_are_kept_as_one_image(tiny_spec: Write, tmp_path: Path) -> None:
    mask = {"box": [0, 8, 16, 16]}
    whole, part = {"latent": 5}, {"latent": 5, "mask": mask, "weight": 3}

    def preserved(*places: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The keys of preserved images, and the share of each of their value positions."""
        path = tiny_spec(tmp_path, **LEARNED, preserve=list(places))
        said("compile", path, "-o", tmp_path / "rules")
        (rule,) = (tmp_path / "rules").rglob("*.safetensors")
        tensors = load_file(rule)
        return tensors["0.preserved.key"], tensors["0.preserved.value_weights"]

    keys, shares = preserved(whole, {"latent": 6}, part)
    # Those of two images, and of the surroundings of the target.
    assert len(keys) == 3
    (_, plain), (_, masked) = preserved(whole, {"latent": 6}), preserved(part)
    counts = plain[0] / plain[0].sum() * plain[0].numel()
    more = 3 * masked[0] / masked[0].max()
    expected = counts + more
    torch.testing.assert_close(shares[0] / shares[0].sum(), expected / expected.sum())
    torch.testing.assert_close(shares[:2].sum(), torch.tensor(0.75))
    assert not torch.allclose(shares[0] / shares[0].sum(), plain[0] / plain[0].sum())


def compiled(path: Path) -> dict[str, Tensor]:
    """The tensors of the rule of a spec's first edit."""
    said("compile", path, "-o", path.parent / "rules")
    return load_file(next((path.parent / "rules").rglob("*.safetensors")))


def test_what_surrounds_a_target_is_kept_and_the_target_is_not(
    tiny_spec: Write, tmp_path: Path
) -> None:
    tensors = compiled(tiny_spec(tmp_path, **LEARNED))
    # The layer samples up: a key has four values.
    for name, size in (("key_weights", 8), ("value_weights", 16)):
        (shares,) = tensors[f"0.preserved.{name}"].view(1, size, size)
        outside = torch.ones(size, size, dtype=torch.bool)
        first, last = 2 * size // 16, 10 * size // 16
        outside[first:last, first:last] = False
        assert not shares[~outside].any()
        assert len(shares[outside].unique()) == 1


def test_steps_keep_each_image_once_where_it_counts_and_no_target(
    tiny_spec: Write, tmp_path: Path
) -> None:
    places = [
        {"latent": 7, "weight": 0.5},
        {"latent": 1},  # the target, whose picture the steps have already
        {"latent": 8, "mask": {"box": [0, 0, 16, 4]}},
        {"latent": 7, "mask": {"box": [0, 8, 8, 16]}, "weight": 3},
    ]
    tensors = compiled(tiny_spec(tmp_path, **LEARNED, preserve=places, refine={"steps": 1}))
    assert torch.equal(tensors["0.refinement.kept"], LatentStream(1, 8).items([7, 8]))
    several, top = torch.full((1, 16, 16), 0.5), torch.zeros(1, 16, 16)
    several[:, 8:, :8] = 3  # the largest of what its places count, and not their sum
    top[:, :4] = 1
    torch.testing.assert_close(tensors["0.refinement.kept_area"], torch.stack([several, top]))


def two_edits(path: Path, **second: Any) -> None:
    """Let the second edit of a spec paste elsewhere in the same layer, with more fields."""
    content = json.loads(path.read_text())
    for number, edit in enumerate(content["edits"]):
        edit["layer"] = "layer5"
        corner = 1 + 7 * number
        mask = {"box": [corner, corner, corner + 7, corner + 7]}
        edit["target"] = {"latent": 3 + 6 * number, "mask": mask}
    content["edits"][1] |= second
    path.write_text(json.dumps(content))


def test_a_protected_edit_is_kept_by_the_next_one(tiny_spec: Write, tmp_path: Path) -> None:
    moved = []
    solver = {"method": "least-squares", "collateral_weight": 1.0, "preserve_share": 0.95}
    for name, second in (
        ("plain", {}),
        ("protected", {"protect": "previous"}),
    ):
        path = tiny_spec(tmp_path, edits=2, rank="full", solver=solver)
        two_edits(path, **second)
        patches = build(path, name)
        first, both = (pictures(tmp_path, patches[:count], [3]) for count in (1, 2))
        moved.append(float((both - first)[..., 1:8, 1:8].abs().mean()))
    # A tiny layer has 54 unknowns a channel for hundreds of positions: it cannot do without.
    assert moved[1] < 0.97 * moved[0]


def test_what_is_protected_counts_in_the_digest(tiny_spec: Write, tmp_path: Path) -> None:
    path = tiny_spec(tmp_path, edits=2, **LEARNED, preserve=PRESERVE)
    two_edits(path, protect="previous")
    before = edit_digest(load(path), 1)
    content = json.loads(path.read_text())
    mask = content["edits"][0]["target"]["mask"]
    content["edits"][0]["target"]["mask"] = {"box": [1, 1, 8, 9]}
    path.write_text(json.dumps(content))
    assert edit_digest(load(path), 1) != before
    del content["edits"][1]["protect"]
    path.write_text(json.dumps(content))
    plain = edit_digest(load(path), 1)
    content["edits"][0]["target"]["mask"] = mask
    path.write_text(json.dumps(content))
    assert edit_digest(load(path), 1) == plain


def test_an_intervened_image_is_protected_as_such(tiny_spec: Write, tmp_path: Path) -> None:
    """A latent gives another image where units of an earlier layer are set."""
    mask = {"box": [2, 2, 10, 10]}
    change = {"layer": "layer2", "units": [0, 1], "value": 3.0, "mask": mask}
    places = [{"latent": 9, "mask": mask}, {"latent": 9, "mask": mask, "intervene": change}]
    found = []
    for context in (places, places[:1]):
        path = tiny_spec(tmp_path, edits=2, rank=1, solver="least-squares")
        content = json.loads(path.read_text())
        content["edits"][0] |= {"context": context}
        content["edits"][1] |= {"protect": "previous"}
        path.write_text(json.dumps(content))
        said("compile", path, "-o", tmp_path / "rules")
        tensors = load_file(sorted((tmp_path / "rules").rglob("*.safetensors"))[1])
        found.append(tensors["0.preserved.key"])
    # The target of the first edit, the images of its context, and what is around the own target.
    assert [len(keys) for keys in found] == [4, 3]


def test_a_share_of_zero_protects_nothing(tiny_spec: Write, tmp_path: Path) -> None:
    found = []
    for share in (0.0, 0.5):
        solver = {"method": "least-squares", "collateral_weight": 0.3, "preserve_share": share}
        for number, second in enumerate(({}, {"protect": "previous"})):
            path = tiny_spec(tmp_path, edits=2, rank=2, solver=solver)
            two_edits(path, **second)
            found.append(pictures(tmp_path, build(path, f"{share}-{number}"), [3, 4, 9]))
    assert (found[0] - found[1]).abs().max() < 1e-4
    assert (found[2] - found[3]).abs().max() > 1e-3


@pytest.mark.parametrize("at", [None, "layer6", "output"])
def test_steps_on_pictures_bring_the_target_nearer(
    tiny_spec: Write, tmp_path: Path, at: str | None
) -> None:
    refine = {"steps": 40, "learning_rate": 0.02, "weight": 20, "at": at}
    fields = {**LEARNED, "preserve": [{"latents": [7, 8]}]}
    plain = build(tiny_spec(tmp_path, **fields), "plain")
    path = tiny_spec(tmp_path, **fields, refine=refine)
    refined = build(path, "refined")
    assert read_patch(refined[0]).metadata["rank"] == 2
    said("compile", path, "-o", tmp_path / "rules")
    (rule,) = (tmp_path / "rules").rglob("*.safetensors")
    tensors = load_file(rule)
    wanted, latent = tensors["0.refinement.wanted"], tensors["0.refinement.items"]
    assert torch.equal(latent, LatentStream(1, 8).items([1]))
    kept = tensors["0.refinement.kept"]
    assert torch.equal(kept, LatentStream(1, 8).items([7, 8]))
    untouched = pictures(tmp_path, [], [7, 8])
    weights = weigh_outputs(wanted, pictures(tmp_path, [], [1]))

    def objective(patches: list[Path]) -> float:
        own = (weights * (pictures(tmp_path, patches, [1]) - wanted).abs()).mean()
        return float(20 * own + (pictures(tmp_path, patches, [7, 8]) - untouched).abs().mean())

    assert objective(refined) < objective(plain)
    # A cached solution is not repeated, and gives the same bytes.
    (again,) = build(path, "again")
    assert again.read_bytes() == refined[0].read_bytes()


def test_pictures_are_wanted_where_the_layers_draw_them(tiny_spec: Write, tmp_path: Path) -> None:
    wanted = []
    for at in (None, "layer6", "output"):
        refine = {"steps": 1, "at": at}
        path = tiny_spec(tmp_path, **LEARNED, preserve=[{"latent": 7}], refine=refine)
        said("compile", path, "-o", tmp_path / f"rules-{at}")
        (rule,) = (tmp_path / f"rules-{at}").rglob("*.safetensors")
        wanted.append(load_file(rule)["0.refinement.wanted"])
    source, target = pictures(tmp_path, [], [2, 1])
    # Pixels of the one in the other: the middle of the source's box at the middle of the target's.
    composited = target.clone()
    composited[:, 2:10, 2:10] = source[:, 4:12, 4:12]
    assert torch.allclose(wanted[2][0], composited, atol=1e-6)
    assert (wanted[0] - wanted[2]).abs().max() > 1e-3
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3


def test_intervened_images_are_not_refined(tiny_spec: Write, tmp_path: Path) -> None:
    mask = {"box": [2, 2, 10, 10]}
    change = {"layer": "layer2", "units": [0], "value": 1.0, "mask": mask}
    target = {"latent": 1, "mask": mask, "intervene": change}
    path = tiny_spec(
        tmp_path, **LEARNED, preserve=[{"latent": 7}], refine={"steps": 1}, target=target
    )
    result = run("validate", path)
    assert result.exit_code == 2
    assert "refine takes no intervene" in result.stderr
