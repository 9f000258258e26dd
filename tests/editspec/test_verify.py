"""`verify`: every flipped bit is noticed, and a patch is compared with what its spec gives
again.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.commands.verify import verify
from editspec.engine.lock import read_lock
from editspec_runtime.errors import EditError, PatchError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch, read_patch
from tests.commands import run, said

BASE = "tiny.safetensors"


def spec() -> dict[str, Any]:
    def edit(number: int) -> dict[str, Any]:
        return {
            "name": f"edit-{number}",
            "layer": f"layer{4 + number}",
            "rank": number,
            "source": {"latent": 2 + number, "mask": {"box": [4, 4, 12, 12]}},
            "target": {"latent": 1, "mask": {"box": [2, 2, 10, 10]}},
            "solver": {"method": "direct", "steps": 5, "learning_rate": 0.01},
        }

    return {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "tiny.safetensors"},
        "statistics": {"samples": 16},
        "edits": [edit(1), edit(2)],
    }


@pytest.fixture
def patches(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """The patches of two edits of a tiny model, built."""
    monkeypatch.chdir(tmp_path)
    save_file(make_tiny(size=16), "tiny.safetensors")
    Path("spec.yaml").write_text(yaml.safe_dump(spec()))
    assert run("build", "spec.yaml", "-o", "out").exit_code == 0
    return sorted(Path("out/patches").iterdir())


def test_every_flipped_bit_of_a_patch_or_the_weights_is_noticed(patches: list[Path]) -> None:
    weights = Path("tiny.safetensors")
    header = struct.unpack("<Q", weights.read_bytes()[:8])[0]
    text = weights.read_bytes()[8 : 8 + header].decode()
    names = [
        8 + at
        for name in json.loads(text)
        for at in range(text.index(f'"{name}"') + 1, text.index(f'"{name}"') + 1 + len(name))
    ]
    rng = random.Random(0)
    places: list[tuple[Path, int]] = []
    places += [
        (patch, rng.randrange(patch.stat().st_size)) for patch in rng.choices(patches, k=100)
    ]
    places += [(weights, rng.randrange(8 + header, weights.stat().st_size)) for _ in range(60)]
    places += [(weights, rng.choice(names)) for _ in range(40)]
    assert len(places) == 200
    assert verify(weights, patches).verified
    for path, place in places:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(EditError):
            verify(weights, patches)
        path.write_bytes(whole)
    assert verify(weights, patches).verified


def test_the_chain_and_the_result_are_checked(patches: list[Path]) -> None:
    base = ["--model", "tiny.safetensors"]
    assert said("verify", *patches, *base)["verified"] is True
    assert run("verify", patches[0], *base).exit_code == 0
    for wrong in ([patches[1]], patches[::-1], [patches[0], patches[0]]):
        assert run("verify", *wrong, *base).exit_code == 1
    patch = read_patch(patches[1])
    lie = make_patch(
        patch.directions,
        patch.coefficients,
        patch.metadata["layouts"],
        {**unsigned(patch), "result": "0" * 64},
    )
    patches[1].write_bytes(lie.to_bytes())
    with pytest.raises(PatchError, match=f"names {'0' * 64}"):
        verify("tiny.safetensors", patches)


def unsigned(patch: Patch) -> dict[str, Any]:
    return {
        name: value
        for name, value in patch.metadata.items()
        if name not in ("content", "format", "version")
    }


def test_ranks_are_checked(patches: list[Path]) -> None:
    patch = read_patch(patches[1])
    (parameter,) = patch.directions
    assert len(patch.directions[parameter]) == 2
    for directions, rank, message in (
        (patch.directions[parameter], 3, "says rank 3"),
        (patch.directions[parameter] * 1.01, 2, "not orthonormal"),
        (patch.directions[parameter][[0, 0]], 2, "not orthonormal"),
    ):
        bad = make_patch(
            {parameter: directions},
            patch.coefficients,
            patch.metadata["layouts"],
            {**unsigned(patch), "rank": rank},
        )
        patches[1].write_bytes(bad.to_bytes())
        with pytest.raises(PatchError, match=message):
            verify("tiny.safetensors", patches)


def test_a_rebuild_gives_identical_bytes(patches: list[Path]) -> None:
    found = verify("tiny.safetensors", patches, "spec.yaml")
    assert found.verified
    assert [patch.again and patch.again.identical for patch in found.patches] == [True, True]
    assert (
        "identical bytes"
        in run("verify", *patches, "--model", "tiny.safetensors", "--spec", "spec.yaml").stdout
    )
    with pytest.raises(PatchError, match="not those of the spec"):
        verify("tiny.safetensors", patches, save("other-name.yaml", name="another"))
    with pytest.raises(PatchError, match="from another edit"):
        verify("tiny.safetensors", patches, save("other-rank.yaml", rank=2))


def save(file: str, **changed: Any) -> Path:
    other = spec()
    other["edits"][0] |= changed
    Path(file).write_text(yaml.safe_dump(other))
    return Path(file)


def disturbed(path: Path, by: float) -> None:
    """Sign the patch at `path` again with coefficients that are off by a relative amount."""
    patch = read_patch(path)
    coefficients = {name: a * (1 + by) for name, a in patch.coefficients.items()}
    result = apply_stack(
        read_weights(Path("tiny.safetensors")).tensors,
        [Patch(patch.directions, coefficients, {})],
    )
    metadata = {**unsigned(patch), "result": tensors_digest(result)}
    path.write_bytes(
        make_patch(patch.directions, coefficients, patch.metadata["layouts"], metadata).to_bytes()
    )


def write_lock_of_elsewhere() -> None:
    """Let the lock be of another machine."""
    lock = read_lock(Path("spec.yaml.lock"))
    assert lock is not None
    edits = []
    for edit in lock.edits:
        elsewhere = {**edit.environment, "device": "abacus"}
        edits.append(edit.model_copy(update={"environment": elsewhere}))
    Path("spec.yaml.lock").write_bytes(lock.model_copy(update={"edits": edits}).to_bytes())


@pytest.mark.parametrize(("by", "within"), [(1e-3, True), (0.04, True), (0.2, False)])
def test_elsewhere_a_rebuild_is_compared_within_the_tolerance(
    patches: list[Path], by: float, within: bool
) -> None:
    write_lock_of_elsewhere()
    disturbed(patches[0], by)
    found = verify("tiny.safetensors", patches[:1], "spec.yaml")
    again = found.patches[0].again
    assert again is not None
    assert again.identical is False
    assert again.difference == pytest.approx(by / (1 + by), rel=0.01)
    assert again.angle is not None
    assert again.angle < 1e-3
    assert again.within is found.verified is within
    result = run("verify", patches[0], "--model", "tiny.safetensors", "--spec", "spec.yaml")
    assert result.exit_code == (0 if within else 1)
    assert ("NOT within" in result.stdout) is not within


@pytest.mark.parametrize("by", [1e-6, 1e-3, 0.04])
@pytest.mark.parametrize("locked", [False, True])
def test_in_the_environment_of_the_lock_bytes_are_demanded(
    patches: list[Path], by: float, locked: bool
) -> None:
    assert verify("tiny.safetensors", patches, "spec.yaml").verified
    disturbed(patches[0], by)
    lock = read_lock(Path("spec.yaml.lock"))
    assert lock is not None
    if locked:
        content = read_patch(patches[0]).metadata["content"]
        mine = lock.edits[0].model_copy(update={"patch": content})
        text = lock.model_copy(update={"edits": [mine, *lock.edits[1:]]}).to_bytes()
        Path("spec.yaml.lock").write_bytes(text)
    found = verify("tiny.safetensors", patches[:1], "spec.yaml")
    assert not found.verified
    again = found.patches[0].again
    assert again is not None
    assert again.same_environment
    assert run("verify", patches[0], "--model", BASE, "--spec", "spec.yaml").exit_code == 1


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"solver": {"method": "direct", "steps": 6, "learning_rate": 0.01}}, "solver"),
        ({"solver": {"method": "projected-gradient"}}, "solver"),
        ({"collateral": None}, "collateral"),
        ({"collateral": {"independent": 0.0, "correlated": 0.0, "energy": 1.0}}, "collateral"),
    ],
)
def test_what_a_patch_says_is_what_its_spec_gives(
    patches: list[Path], fields: dict[str, Any], named: str, elsewhere: bool
) -> None:
    if elsewhere:
        write_lock_of_elsewhere()
    patch = read_patch(patches[0])
    said = {**unsigned(patch), **fields}
    if said["collateral"] is None:
        del said["collateral"]
    elif "collateral" in fields:
        said["collateral"] = {"layer5": fields["collateral"]}
    layouts = patch.metadata["layouts"]
    forged = make_patch(patch.directions, patch.coefficients, layouts, said)
    patches[0].write_bytes(forged.to_bytes())
    # Without a key and a spec nothing contradicts it.
    assert verify(BASE, patches[:1]).verified
    found = verify(BASE, patches[:1], "spec.yaml")
    assert not found.verified
    again = found.patches[0].again
    assert again is not None
    assert again.fields == (named,)
    result = run("verify", patches[0], "--model", BASE, "--spec", "spec.yaml")
    assert result.exit_code == 1
    assert f"NOT what the spec gives: {named}" in result.stdout


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_parameter_that_only_one_of_the_two_has_is_a_difference(
    patches: list[Path], tmp_path: Path, elsewhere: bool
) -> None:
    full = spec()
    full["edits"] = [full["edits"][0] | {"solver": {"method": "all-weights", "steps": 2}}]
    del full["edits"][0]["rank"]
    Path("full.yaml").write_text(yaml.safe_dump(full))
    assert run("build", "full.yaml", "-o", "full").exit_code == 0
    if elsewhere:
        Path("full.yaml.lock").unlink()
    (path,) = Path("full/patches").iterdir()
    assert verify(BASE, [path], "full.yaml").verified
    patch = read_patch(path)
    left_out = next(name for name in patch.parameters if name.startswith("style"))
    deltas = {name: delta for name, delta in patch.deltas.items() if name != left_out}
    layouts = {name: patch.metadata["layouts"][name] for name in deltas}
    result = apply_stack(read_weights(Path(BASE)).tensors, [Patch({}, {}, {}, deltas)])
    said = {**unsigned(patch), "result": tensors_digest(result)}
    path.write_bytes(make_patch({}, {}, layouts, said, deltas).to_bytes())
    assert verify(BASE, [path]).verified
    found = verify(BASE, [path], "full.yaml")
    assert not found.verified
    again = found.patches[0].again
    assert again is not None
    assert again.parameters == (left_out,)
    result = run("verify", path, "--model", BASE, "--spec", "full.yaml")
    assert result.exit_code == 1
    assert left_out in result.stdout


def test_weights_that_are_not_finite_are_named(patches: list[Path]) -> None:
    from safetensors.torch import load_file

    weights = load_file("tiny.safetensors")
    weights["noises.noise_0"][0, 0, 0, 0] = torch.nan
    save_file(weights, "tiny.safetensors")
    result = run("verify", *patches, "--model", "tiny.safetensors")
    assert result.exit_code == 1
    assert "noises.noise_0" in result.stderr
