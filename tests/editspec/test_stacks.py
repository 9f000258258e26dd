"""Composing, rebasing, comparing and auditing stacks of patches that were really built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import editspec
from editspec_runtime.errors import EditError, PatchError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.io.files import safetensors_bytes
from editspec_runtime.maths.metric import norm, principal_cosines, recompress, unfold
from editspec_runtime.patches.patch import apply_stack, make_patch, read_patch
from tests.commands import run, said


def spec() -> dict[str, Any]:
    def edit(number: int, layer: str, **more: Any) -> dict[str, Any]:
        return {
            "name": f"edit-{number}",
            "layer": layer,
            "source": {"latent": 2 + number, "mask": {"box": [4, 4, 12, 12]}},
            "target": {"latent": number, "mask": {"box": [2, 2, 10, 10]}},
            "solver": {"method": "direct", "steps": 5, "learning_rate": 0.01},
        } | more

    layer = {"method": "layer", "steps": 5, "learning_rate": 0.001}
    edits = [
        edit(1, "layer6", rank=2),
        edit(2, "layer5"),
        edit(3, "layer6"),
        edit(4, "layer5", solver=layer),
    ]
    model = {"family": "stylegan2", "weights": "tiny.safetensors"}
    return {"version": 1, "model": model, "statistics": {"samples": 16}, "edits": edits}


@pytest.fixture
def built(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """The patches of four edits of a tiny model: two of the same layer, one without a rank
    limit.
    """
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    Path("spec.yaml").write_text(yaml.safe_dump(spec()))
    said("build", "spec.yaml", "-o", "out")
    return sorted(Path("out/patches").iterdir())


def base() -> dict[str, Tensor]:
    return read_weights(Path("tiny.safetensors")).tensors


def test_a_composed_patch_does_exactly_what_the_stack_does(built: list[Path]) -> None:
    for chosen in (built[:3], built):
        found = said("compose", *chosen, "-o", "one.safetensors")
        applied = said(
            "apply", "--model", "tiny.safetensors", "one.safetensors", "-o", "composed.safetensors"
        )
        assert applied["digest"] == found["result"] == read_patch(chosen[-1]).metadata["result"]
        assert all(part["lost"] == 0 for part in found["parameters"].values())
        assert said("verify", "one.safetensors", "--model", "tiny.safetensors")["verified"]
    ranks = said("compose", *built[:3], "-o", "one.safetensors")["parameters"]
    assert sorted(part["rank"] for part in ranks.values()) == [1, 3]
    # Patches in the middle compose, too, and then go on the weights that they were built on.
    said("compose", *built[1:3], "-o", "middle.safetensors")
    said(
        "apply",
        "--model",
        "tiny.safetensors",
        built[0],
        "middle.safetensors",
        "-o",
        "edited.safetensors",
    )
    assert run("compose", built[0], built[2], "-o", "gap.safetensors").exit_code == 1
    assert run("compose", *built, "-o", "spec.yaml").exit_code == 1
    assert run("compose", *built, "-o", "x.safetensors", "--rank", 2).exit_code == 2


def test_recompression_is_the_best_of_its_rank(built: list[Path]) -> None:
    said("compose", *built[:3], "-o", "exact.safetensors")
    full = said(
        "compose", *built[:3], "-o", "three.safetensors", "--rank", 3, "--spec", "spec.yaml"
    )
    lower = said("compose", *built[:3], "-o", "two.safetensors", "--rank", 2, "--spec", "spec.yaml")
    name = next(name for name, part in lower["parameters"].items() if part["lost"] > 1e-6)
    exact, three, two = (
        read_patch(Path(f"{file}.safetensors")).delta(name) for file in ("exact", "three", "two")
    )
    assert full["parameters"][name]["lost"] < 1e-6
    assert (three - exact).norm() / exact.norm() < 1e-5
    assert torch.linalg.matrix_rank(unfold(two), rtol=1e-5) == 2
    assert said("verify", "two.safetensors", "--model", "tiny.safetensors")["verified"]
    assert said(
        "apply", "--model", "tiny.safetensors", "two.safetensors", "-o", "two-applied.safetensors"
    )["digest"]


def test_recompression_beats_every_other_choice() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    keys = normal(50, 6) * torch.tensor([10, 5, 1, 1, 0.3, 0.1], dtype=torch.float64)
    moment, matrix = keys.T @ keys / 50, normal(9, 6)
    found = recompress(matrix, moment, 2)
    assert torch.allclose(found.directions @ found.directions.T, torch.eye(2, dtype=torch.float64))
    missing = matrix - found.coefficients @ found.directions
    assert found.lost == pytest.approx(norm(missing, moment) / norm(matrix, moment))
    # Measured on the keys themselves, and against the plain truncation and random directions.
    assert norm(missing, moment) ** 2 == pytest.approx(
        float((keys @ missing.T).square().sum() / 50)
    )
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    others = [u[:, :2] * s[:2] @ v[:2]]
    for _ in range(20):
        d = torch.linalg.qr(normal(6, 2))[0].T
        others.append(matrix @ moment @ d.T @ torch.linalg.inv(d @ moment @ d.T) @ d)
    assert all(norm(matrix - other, moment) > norm(missing, moment) for other in others)
    assert recompress(matrix, moment, 6).lost < 1e-9


def test_principal_cosines_in_a_metric() -> None:
    generator = torch.Generator().manual_seed(1)
    d = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    moment = root @ root.T
    mixed = torch.randn(3, 3, generator=generator, dtype=torch.float64) @ d
    assert torch.allclose(principal_cosines(d, mixed, moment), torch.ones(3, dtype=torch.float64))
    orthogonal = torch.eye(6, dtype=torch.float64)[1:2] @ torch.linalg.inv(moment)
    assert principal_cosines(torch.eye(6, dtype=torch.float64)[:1], orthogonal, moment)[0] < 1e-9
    assert principal_cosines(torch.eye(6, dtype=torch.float64)[:1], orthogonal)[0] > 1e-3


@pytest.mark.parametrize("dropped", range(4))
def test_dropping_by_keep_deltas_is_the_stack_without_it(built: list[Path], dropped: int) -> None:
    rest = [path for number, path in enumerate(built) if number != dropped]
    made = said("rebase", *rest, "--model", "tiny.safetensors", "-o", "rebased", "--keep-deltas")[
        "patches"
    ]
    patches = sorted(Path("rebased/patches").iterdir())
    applied = said("apply", "--model", "tiny.safetensors", *patches, "-o", "rebased.safetensors")
    wanted = apply_stack(base(), [read_patch(path) for path in rest])
    assert applied["digest"] == tensors_digest(wanted) == made[-1]["result"]
    assert all(torch.equal(t, wanted[name]) for name, t in load_file("rebased.safetensors").items())
    assert said("verify", *patches, "--model", "tiny.safetensors")["verified"]
    assert run("apply", "--model", "tiny.safetensors", *rest, "-o", "x.safetensors").exit_code == (
        dropped < 3
    )


def test_rebase_solves_again_what_lies_behind(built: list[Path]) -> None:
    made = said(
        "rebase",
        built[0],
        built[2],
        "--model",
        "tiny.safetensors",
        "-o",
        "again",
        "--spec",
        "spec.yaml",
    )
    patches = sorted(Path("again/patches").iterdir())
    assert patches[0].read_bytes() == built[0].read_bytes()
    shorter = spec()
    shorter["edits"] = [shorter["edits"][0], shorter["edits"][2]]
    Path("shorter.yaml").write_text(yaml.safe_dump(shorter))
    wanted = said("build", "shorter.yaml", "-o", "wanted")["edits"]
    assert [patch["content"] for patch in made["patches"]] == [edit["digest"] for edit in wanted]
    assert said("diff", "again", "wanted")["same"]
    Path("shorter.yaml").write_text(yaml.safe_dump({**shorter, "edits": shorter["edits"][:1]}))
    result = run(
        "rebase", built[1], "--model", "tiny.safetensors", "-o", "x", "--spec", "shorter.yaml"
    )
    assert result.exit_code == 1
    assert "no edits edit-2" in result.stderr
    assert run("rebase", built[0], "--model", "tiny.safetensors", "-o", "x").exit_code == 2


def test_deltas_move_to_another_base(built: list[Path]) -> None:
    save_file({**base(), "noises.noise_0": base()["noises.noise_0"] + 1}, "tuned.safetensors")
    assert (
        run("apply", "--model", "tuned.safetensors", *built, "-o", "x.safetensors").exit_code == 1
    )
    said("rebase", *built, "--model", "tuned.safetensors", "-o", "moved", "--keep-deltas")
    said(
        "apply",
        "--model",
        "tuned.safetensors",
        *sorted(Path("moved/patches").iterdir()),
        "-o",
        "x.safetensors",
    )


def test_diff_of_patches_stacks_and_weights(built: list[Path]) -> None:
    assert said("diff", built[0], built[0])["same"]
    found = said("diff", built[0], built[2])
    assert not found["same"]
    ((name, numbers),) = found["edits"][0]["parameters"].items()
    first, second = read_patch(built[0]).delta(name), read_patch(built[2]).delta(name)
    assert numbers["difference"] == pytest.approx(float((first - second).norm() / first.norm()))
    other = spec()
    other["edits"][1]["solver"]["steps"] = 6
    del other["edits"][3]
    Path("other.yaml").write_text(yaml.safe_dump(other))
    said("build", "other.yaml", "-o", "other")
    found = said("diff", "out", "other")
    assert (found["added"], found["removed"]) == ([], ["edit-4"])
    assert [edit["identical"] for edit in found["edits"]] == [True, False, False]
    text = run("diff", "out", "other").stdout
    assert "  solver.steps: " in text
    assert "solver.method" not in text  # only what differs
    said("apply", "--model", "tiny.safetensors", *built, "-o", "edited.safetensors")
    found = said("diff", "tiny.safetensors", "edited.safetensors")
    assert len(found["changed"]) == 2
    assert found["equal"] == len(base()) - 2
    assert "singular values" in run("diff", "tiny.safetensors", "edited.safetensors").stdout
    assert run("diff", built[0], "tiny.safetensors").exit_code == 1


def test_diff_draws_pictures(built: list[Path]) -> None:
    from PIL import Image

    said("diff", "out", "out", "--picture", "same.png", "--model", "tiny.safetensors")
    said("apply", "--model", "tiny.safetensors", *built, "-o", "edited.safetensors")
    said("diff", "tiny.safetensors", "edited.safetensors", "--picture", "weights.png")
    with Image.open("same.png") as same, Image.open("weights.png") as weights:
        assert same.size == weights.size
        assert same.tobytes() != weights.tobytes()
    with pytest.raises(PatchError, match="Give --model"):
        editspec.diff("out", "out", picture="x.png")
    with pytest.raises(EditError, match="in the way"):
        editspec.diff("out", "out", picture="spec.yaml", model="tiny.safetensors")


def test_audit_explains_or_shows_what_is_left(built: list[Path]) -> None:
    said("apply", "--model", "tiny.safetensors", *built, "-o", "edited.safetensors")
    files = ["--base", "tiny.safetensors", "--edited", "edited.safetensors"]
    assert said("audit", *files, *built)["explained"]
    found = said("audit", *files, *built[:3], code=1)
    assert list(found["unexplained"]) == read_patch(built[3]).parameters
    said("apply", "--model", "tiny.safetensors", *built[:3], "-o", "three.safetensors")
    found = json.loads(
        run("audit", files[0], files[1], files[2], "three.safetensors", *built[:2], "--json").stdout
    )
    ((left),) = found["unexplained"].values()
    assert left["rank"] == 1  # the third edit, which was not given, and nothing else
    weights = load_file("edited.safetensors")
    weights["noises.noise_0"] += 1
    save_file(weights, "tampered.safetensors")
    result = run("audit", "--base", "tiny.safetensors", "--edited", "tampered.safetensors", *built)
    assert result.exit_code == 1
    assert "noises.noise_0" in result.stdout
    result = run("audit", "--base", "tiny.safetensors", "--edited", "tiny.safetensors", *built)
    assert result.exit_code == 1
    assert "the edited weights are the base itself" in result.stdout
    assert "NOT explained, without patches" in run("audit", *files).stdout
    same = run("audit", "--base", "tiny.safetensors", "--edited", "tiny.safetensors")
    assert (same.exit_code, ": explained, without patches" in same.stdout) == (0, True)


def disturb(name: str, by: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The verdict of `audit` on edited weights to one of which a tensor was added.

    The tensor follows from what the stack changes.
    """
    weights = load_file("edited.safetensors")
    edited = weights[name].double()
    weights[name] = (edited + by(edited - base()[name].double())).float()
    save_file(weights, "disturbed.safetensors")
    files = ("--base", "tiny.safetensors", "--edited", "disturbed.safetensors")
    found: dict[str, Any] = json.loads(run("audit", *files, "out", "--json").stdout)
    return found


def test_audit_knows_the_rounding_of_another_environment(built: list[Path]) -> None:
    said("apply", "--model", "tiny.safetensors", *built, "-o", "edited.safetensors")
    (name,) = read_patch(built[0]).parameters

    def scaled(share: float) -> Callable[[Tensor], Tensor]:
        return lambda change: share * change

    def elsewhere(share: float) -> Callable[[Tensor], Tensor]:
        def disturbance(change: Tensor) -> Tensor:
            noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(1)).double()
            return share * noise * change.norm() / noise.norm()

        return disturbance

    for by in (scaled(1e-6), scaled(1e-2), elsewhere(1e-5)):
        found = disturb(name, by)
        assert not found["explained"]
        assert found["rounding"]
    files = ("--base", "tiny.safetensors", "--edited", "disturbed.safetensors")
    done = run("audit", *files, *built)
    assert done.exit_code == 0
    assert "rounding of another environment" in done.stdout
    # The controls: too far, in other directions, in another parameter, and no difference at all.
    for by in (scaled(0.2), scaled(-1.0), elsewhere(0.04)):
        found = disturb(name, by)
        assert not found["explained"]
        assert not found["rounding"]
    assert run("audit", *files, *built).exit_code == 1
    weights = load_file("edited.safetensors")
    weights["noises.noise_0"] *= 1 + 1e-6
    save_file(weights, "disturbed.safetensors")
    assert not said("audit", *files, *built, code=1)["rounding"]
    whole = disturb(name, scaled(0.0))
    assert whole["explained"]
    assert not whole["rounding"]


def test_parameters_that_share_directions_store_them_once(built: list[Path]) -> None:
    first, second = read_patch(built[0]), read_patch(built[1])
    (one,), (other,) = first.parameters, second.parameters
    rows = second.directions[other]
    apart = replace(
        second,
        directions={one: rows, other: rows.clone()},
        coefficients={one: first.coefficients[one][:, :1], other: second.coefficients[other]},
    )
    tensors = base()
    result = tensors_digest(apply_stack(tensors, [apart]))
    layouts = first.metadata["layouts"] | second.metadata["layouts"]
    metadata = {name: value for name, value in first.metadata.items() if name != "layer"}
    metadata |= {"layers": ["layer5", "layer6"], "rank": 1, "result": result}
    metadata["collateral"] = first.metadata["collateral"] | second.metadata["collateral"]
    patch = make_patch(apart.directions, apart.coefficients, layouts, metadata)
    Path("shared.safetensors").write_bytes(patch.to_bytes())

    assert sorted(load_file("shared.safetensors")) == sorted(["D.0", f"{one}.A", f"{other}.A"])
    read = read_patch(Path("shared.safetensors"))
    assert read.metadata["directions"] == {one: "D.0", other: "D.0"}
    for name in (one, other):
        assert torch.equal(read.delta(name), apart.delta(name))
    model = ("--model", "tiny.safetensors")
    assert said("verify", "shared.safetensors", *model)["verified"]
    assert said("apply", *model, "shared.safetensors", "-o", "e.safetensors")["digest"] == result
    for name, tensor in apply_stack(tensors, [apart]).items():
        assert torch.equal(load_file("e.safetensors")[name], tensor)
    said("export", "shared.safetensors", "--format", "delta", "-o", "delta.safetensors")
    exported = load_file("delta.safetensors")
    assert {name.removesuffix(".delta") for name in exported} == {one, other}
    said("diff", "shared.safetensors", built[0], "--json")
    assert said("inspect", "shared.safetensors")["directions"] == {one: "D.0", other: "D.0"}


@pytest.mark.parametrize("shared", [{"p": "D.1"}, {"p": 0}, ["D.0"], {"p": "q.A"}])
def test_directions_that_name_no_tensor_are_damage(built: list[Path], shared: object) -> None:
    patch = read_patch(built[0])
    metadata = {**patch.metadata, "directions": shared}
    Path("bad.safetensors").write_bytes(safetensors_bytes(patch.tensors(), metadata))
    with pytest.raises(PatchError, match="damaged patch"):
        read_patch(Path("bad.safetensors"))
