"""NVIDIA's pickles with edited tensors: copied by their bytes, never executed."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from editspec_runtime.families.open import read_weights
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch
from tests.commands import run, said
from tests.runtime.test_nvidia import (
    EasyDict,
    Persistent,
    generator,
    nvidia_modules,
    saved,
)

__all__ = ["nvidia_modules"]  # a fixture of all tests here, with a trap for code that runs

PARAMETER = "synthesis.b16.conv1.weight"


def patch_on(path: str) -> tuple[str, Tensor]:
    """A patch of a parameter of the generator at a path, and the parameter afterwards."""
    base = read_weights(Path(path))
    random = torch.Generator().manual_seed(0)
    deltas = {PARAMETER: torch.randn(base[PARAMETER].shape, generator=random)}
    after = apply_stack(base, [Patch({}, {}, {}, deltas)])
    metadata = {
        "name": "edit",
        "family": "stylegan2",
        "layer": "layer6",
        "rank": None,
        "solver": {"method": "layer"},
        "edit": "0" * 64,
        "base": base.digest(),
        "parent": base.digest(),
        "result": after.digest(),
    }
    patch = make_patch({}, {}, {PARAMETER: "o i y x"}, metadata, deltas)
    Path("patch.safetensors").write_bytes(patch.to_bytes())
    return "patch.safetensors", after[PARAMETER]


def parts(path: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of every module in a pickle, as the product reads them without running any."""
    from editspec_runtime.io.pickles import Module, read_pickle

    content: Any = read_pickle(Path(path))
    modules = {name: part for name, part in content.items() if isinstance(part, Module)}
    return {name: module.state_dict() for name, module in modules.items()}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_is_copied_but_for_the_bytes_of_the_tensor(protocol: int) -> None:
    module = generator()
    content = {"G": generator(), "D": Persistent("Discriminator"), "G_ema": module}
    content |= {"augment_pipe": None, "training_set_kwargs": EasyDict(resolution=32)}
    Path("base.pkl").write_bytes(pickle.dumps(content, protocol))
    patch, after = patch_on("base.pkl")
    applied = said("apply", "--model", "base.pkl", patch, "-o", "edited.pkl")
    before, edited = Path("base.pkl").read_bytes(), Path("edited.pkl").read_bytes()
    # One run of bytes differs: the numbers of the tensor, where they lay.
    places = [n for n, (x, y) in enumerate(zip(before, edited, strict=False)) if x != y]
    numbers = module.state_dict()[PARAMETER].numpy().tobytes()
    begin = before.rindex(numbers)
    assert begin <= places[0] <= places[-1] < begin + len(numbers)
    assert edited[begin : begin + len(numbers)] == after.numpy().tobytes()
    # What is said of the file stands behind the end of the pickle.
    operations = list(pickletools.genops(edited))
    assert operations[-1][0].name == "STOP"
    assert operations[-1][2] == len(before) - 1
    found = parts("edited.pkl")
    assert torch.equal(found["G_ema"][PARAMETER], after)
    assert torch.equal(found["G"][PARAMETER], module.state_dict()[PARAMETER])
    digest = read_weights(Path("edited.pkl")).digest()
    assert digest == applied["digest"] == said("inspect", patch)["result"]
    assert said("inspect", "edited.pkl")["edited"]["patches"] == [said("inspect", patch)["content"]]
    # It may be written again, and is no base.
    said("apply", "--model", "base.pkl", patch, "-o", "edited.pkl")
    assert Path("edited.pkl").read_bytes() == edited
    result = run("apply", "--model", "edited.pkl", patch, "-o", "twice.pkl")
    assert (result.exit_code, "edited already" in result.stderr) == (1, True)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_one_module_under_two_keys_becomes_two(protocol: int) -> None:
    module = generator()
    Path("base.pkl").write_bytes(
        pickle.dumps({"G": module, "D": Persistent("D"), "G_ema": module, "x": [module]}, protocol)
    )
    patch, after = patch_on("base.pkl")
    said("apply", "--model", "base.pkl", patch, "-o", "edited.pkl")
    found = parts("edited.pkl")
    assert torch.equal(found["G_ema"][PARAMETER], after)
    for name, tensor in module.state_dict().items():
        assert torch.equal(found["G"][name], tensor)
        assert name == PARAMETER or torch.equal(found["G_ema"][name], tensor)


def test_a_bare_generator_and_an_ending_of_none() -> None:
    module = generator()
    Path("base.pkl").write_bytes(pickle.dumps(module))
    patch, after = patch_on("base.pkl")
    for out in ("edited.pkl", "edited"):
        digest = said("apply", "--model", "base.pkl", patch, "-o", out)["digest"]
        assert read_weights(Path(out)).digest() == digest
        assert torch.equal(read_weights(Path(out))[PARAMETER], after)


def test_other_containers_of_the_same_generator() -> None:
    saved(generator(), Path("base.pkl"))
    patch, after = patch_on("base.pkl")
    names = {*generator().state_dict(), "synthesis.conv_clamp"}
    digests = set()
    for more in ([], ["--only-generator"]):
        for ending in ("pt", "safetensors"):
            out = f"edited{len(more)}.{ending}"
            applied = said("apply", "--model", "base.pkl", patch, "-o", out, *more)
            digests |= {applied["digest"], read_weights(Path(out)).digest()}
    assert len(digests) == 1
    for more in ("0", "1"):
        plain = torch.load(f"edited{more}.pt", weights_only=True)
        assert set(plain) == set(load_file(f"edited{more}.safetensors")) == names
        assert torch.equal(plain[PARAMETER], after)


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply", "--model", "base.pkl", "patch.safetensors", "--only-generator", "-o", "e.pkl"],
        ["apply", "--model", "base.pt", "patch.safetensors", "-o", "e.pkl"],
        ["convert", "base.pkl", "e.pkl"],
        ["convert", "base.pt", "e.pkl"],
    ],
)
def test_no_other_pickle_is_written(arguments: list[str]) -> None:
    saved(generator(), Path("base.pkl"))
    torch.save(generator().state_dict(), "base.pt")
    patch_on("base.pkl")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert ".safetensors" in result.stderr
    assert not Path("e.pkl").exists()
