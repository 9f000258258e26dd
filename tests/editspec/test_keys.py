"""A generator under a key or behind a prefix goes the whole way: build, lock, apply, verify."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec_runtime.io.digests import tensors_digest
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_spec(**model: Any) -> None:
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    solver = {"method": "direct", "steps": 5}
    edit = {"name": "e", "layer": "layer6", "source": place, "target": {**place, "latent": 2}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", **model},
        "statistics": {"samples": 32},
        "edits": [{**edit, "solver": solver}],
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def save_nested(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    torch.save({"nets": {"a": behind("module.", first), "b": second}}, "net.pt")
    return {"weights": "net.pt", "key": "nets.a"}


def save_prefixed(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    save_file(behind("a.", first) | behind("b.", second), "net.safetensors")
    return {"weights": "net.safetensors", "prefix": "a."}


@pytest.mark.parametrize("save", [save_nested, save_prefixed])
def test_one_of_several_is_edited(
    tiny: dict[str, Tensor],
    save: Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Any]],
) -> None:
    twice = {name: 2 * tensor for name, tensor in tiny.items()}
    model = save(tiny, twice)
    write_spec(weights=model["weights"])
    result = run("build", "spec.yaml", "-o", "out")
    assert (result.exit_code, "holds several state dicts" in result.stderr) == (1, True)
    write_spec(**model)
    (built,) = said("build", "spec.yaml", "-o", "out")["edits"]
    patch = read_patch(Path(built["patch"]))
    # Names and digests are those of the generator: key and prefix are stripped.
    assert patch.parameters == ["convs.3.conv.weight"]
    assert patch.metadata["base"] == tensors_digest(tiny)
    assert said("lock", "spec.yaml", "--check")["weights"] == tensors_digest(tiny)
    # The edit of a file that holds the generator alone is the same one.
    save_file(tiny, "bare.safetensors")
    write_spec(weights="bare.safetensors")
    (bare,) = said("build", "spec.yaml", "-o", "other")["edits"]
    assert bare["digest"] == built["digest"]
    # Without a spec, a patch finds its base by the digest.
    assert run("verify", "--model", model["weights"], built["patch"]).exit_code == 0
    applied = said("apply", "--model", model["weights"], built["patch"], "--dry-run")
    assert (applied["base"], applied["digest"]) == (tensors_digest(tiny), built["result"])


@pytest.mark.parametrize("ending", ["pt", "pkl"])
def test_an_edit_goes_back_to_where_the_generator_lay(tiny: dict[str, Tensor], ending: str) -> None:
    numbers = {"fid": np.float64(3.5), "losses": np.arange(6.0).reshape(2, 3)}
    content = {"nets": {"G": behind("module.", tiny), "D": {"w": torch.ones(2)}}, **numbers}
    if ending == "pt":
        torch.save(content, "net.pt")
    else:
        Path("net.pkl").write_bytes(pickle.dumps(content))
    write_spec(weights=f"net.{ending}")
    (built,) = said("build", "spec.yaml", "-o", "out")["edits"]
    out = f"edited.{ending}"
    applied = said("apply", "--model", f"net.{ending}", built["patch"], "-o", out)
    assert applied["digest"] == built["result"]
    if ending == "pt":
        after = torch.load("edited.pt", weights_only=False)
    else:
        after = pickle.loads(Path("edited.pkl").read_bytes())
    changed = []
    for name, tensor in tiny.items():
        if not torch.equal(after["nets"]["G"][f"module.{name}"], tensor):
            changed.append(name)
    assert changed == ["convs.3.conv.weight"]
    assert (after["fid"], after["nets"]["D"]["w"].tolist()) == (3.5, [1.0, 1.0])
    assert np.array_equal(after["losses"], numbers["losses"])
    assert said("inspect", out)["digest"] == built["result"]


def test_other_tensors_of_the_file_stay(tiny: dict[str, Tensor]) -> None:
    twice = {name: 2 * tensor for name, tensor in tiny.items()}
    write_spec(**save_prefixed(tiny, twice))
    (built,) = said("build", "spec.yaml", "-o", "out")["edits"]
    said("apply", "--model", "net.safetensors", built["patch"], "-o", "edited.safetensors")
    before, after = load_file("net.safetensors"), load_file("edited.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["a.convs.3.conv.weight"]


def test_validate_looks_behind_a_prefix(tiny: dict[str, Tensor]) -> None:
    save_file(behind("generator.", tiny) | {"d.weight": torch.ones(2)}, "net.safetensors")
    write_spec(weights="net.safetensors")
    assert run("validate", "spec.yaml").exit_code == 0
    text = Path("spec.yaml").read_text().replace("layer6", "layer60")
    Path("spec.yaml").write_text(text)
    result = run("validate", "spec.yaml")
    assert (result.exit_code, "there is no layer60" in result.stderr) == (2, True)
    write_spec(weights="net.safetensors", prefix="nothing.")
    result = run("validate", "spec.yaml")
    assert (result.exit_code, "no tensors at model.prefix: nothing." in result.stderr) == (1, True)
