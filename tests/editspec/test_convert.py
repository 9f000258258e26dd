"""`editspec convert` and `editspec inspect` on checkpoints of every container."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from editspec_runtime.families.open import read_weights
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

MakeTiny = Callable[..., dict[str, Tensor]]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def training_checkpoint(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What rosinality's training saves."""
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()
    arguments = argparse.Namespace(iter=800000, size=32, path="data", augment=True)
    others = {"d": {"x": torch.ones(2)}, "g_optim": optimiser, "args": arguments, "ada_aug_p": 0.3}
    return {"g": weights, "g_ema": weights, "latent_avg": torch.ones(8), **others}


def nvidia_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same generator by NVIDIA's names and in its shapes."""
    from editspec_runtime.families.stylegan2.nvidia import nvidia_name, nvidia_shape

    return {
        nvidia_name(name): tensor.reshape([n or 0 for n in nvidia_shape(name, tuple(tensor.shape))])
        for name, tensor in weights.items()
    }


def test_every_container_converts_and_converts_back(tiny: dict[str, Tensor]) -> None:
    torch.save(training_checkpoint(tiny), "training.pt")
    torch.save(training_checkpoint(tiny), "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"g_ema": tiny, "latent_avg": torch.ones(8)}, "small.pth")
    save_file(tiny | {"latent_avg": torch.ones(8)}, "bare.safetensors")
    digests = set()
    for name in ("training.pt", "old.pt", "small.pth", "bare.safetensors"):
        digests.add(said("convert", name, f"{name}.safetensors")["digest"])
        said("convert", f"{name}.safetensors", "back.safetensors")
        assert Path("back.safetensors").read_bytes() == Path(f"{name}.safetensors").read_bytes()
        digests.add(read_weights(Path("back.safetensors")).digest())
    assert digests == {read_weights(Path("bare.safetensors")).digest()}
    # The generator's own names, which its code loads.
    assert set(load_file("training.pt.safetensors")) == {*tiny, "latent_avg"}
    torch.save({**tiny, "conv1.noise.weight": torch.ones(1)}, "other.pt")
    assert said("convert", "other.pt", "other.safetensors")["digest"] not in digests


def test_an_edited_checkpoint_stays_one(tiny: dict[str, Tensor]) -> None:
    save_file(nvidia_names(tiny), "nvidia.safetensors")
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    edit = {"name": "e", "layer": "layer6", "source": place, "target": {**place, "latent": 2}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "nvidia.safetensors"},
        "statistics": {"samples": 32},
        "edits": [{**edit, "solver": {"method": "direct", "steps": 30}}],
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    (built,) = said("build", "spec.yaml", "-o", "out")["edits"]
    patch = read_patch(Path(built["patch"]))
    # The patch is by NVIDIA's names, and so are the weights after it.
    (parameter,) = patch.directions
    assert parameter == "synthesis.b16.conv1.weight"
    assert patch.metadata["layouts"] == {parameter: "o i y x"}
    applied = said(
        "apply", "--model", "nvidia.safetensors", built["patch"], "-o", "edited.safetensors"
    )
    edited = load_file("edited.safetensors")
    assert set(edited) == set(nvidia_names(tiny))
    changed = [
        name for name, tensor in nvidia_names(tiny).items() if not torch.equal(edited[name], tensor)
    ]
    assert changed == [parameter]
    assert (
        said("convert", "edited.safetensors", "same.safetensors")["digest"]
        == applied["digest"]
        == built["result"]
    )
    assert said("inspect", "same.safetensors")["edited"]["patches"] == [built["digest"]]
    assert said("convert", "nvidia.safetensors", "plain.safetensors")["digest"] != applied["digest"]
    assert said("inspect", "plain.safetensors")["edited"] is None
    again = said("apply", "--model", "plain.safetensors", built["patch"], "-o", "2.safetensors")
    assert again["digest"] == applied["digest"]


def test_nvidias_names_give_the_images_of_rosinalitys(tiny: dict[str, Tensor]) -> None:
    from editspec_runtime.families.stylegan2.network import StyleGAN2

    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(StyleGAN2(nvidia_names(tiny)).images(z), StyleGAN2(tiny).images(z))


def test_inspect_says_what_a_checkpoint_is(tiny: dict[str, Tensor]) -> None:
    torch.save(training_checkpoint(tiny), "training.pt")
    found = said("inspect", "training.pt")
    assert (found["family"], found["image_size"], found["latent_size"], found["classes"]) == (
        "stylegan2",
        32,
        8,
        0,
    )
    assert found["parameters"] == sum(tensor.numel() for tensor in tiny.values()) + 8
    assert found["truncation"] == "possible"
    assert found["numbers"] == {"float32": len(tiny) + 1}
    save_file({name: tensor.half() for name, tensor in tiny.items()}, "half.safetensors")
    half = said("inspect", "half.safetensors")
    assert half["numbers"] == {"float16": len(tiny)}
    assert (half["rounding"].split()[-1], found["rounding"].split()[-1]) == ("float16", "float32")
    assert said("inspect", "half.safetensors", "--family", "stylegan2")["layers"] == found["layers"]
    conditional = nvidia_names(tiny) | {
        "mapping.embed.weight": torch.ones(8, 3),
        "mapping.embed.bias": torch.ones(8),
    }
    conditional["mapping.fc0.weight"] = torch.ones(8, 16)
    save_file(conditional, "classes.safetensors")
    assert said("inspect", "classes.safetensors")["classes"] == 3


def test_what_is_assumed_is_said(tiny: dict[str, Tensor]) -> None:
    save_file(nvidia_names(tiny), "nvidia.safetensors")
    save_file(
        nvidia_names(tiny) | {"synthesis.conv_clamp": torch.tensor(256.0)}, "clamp.safetensors"
    )
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    solver = {"method": "direct", "steps": 1}
    edit = {"name": "e", "layer": "layer6", "source": place, "target": place, "solver": solver}
    for name, noted in (("nvidia", True), ("clamp", False)):
        weights = f"{name}.safetensors"
        model = {"family": "stylegan2", "weights": weights}
        spec = {"version": 1, "model": model, "statistics": {"samples": 32}, "edits": [edit]}
        Path("spec.yaml").write_text(yaml.safe_dump(spec))
        for command in (["inspect", weights], ["build", "spec.yaml", "-o", f"out-{name}"]):
            assert ("no clamp of the activations is assumed" in run(*command).stdout) is noted
            assert ("notes" in said(*command)) is noted


@pytest.mark.parametrize("colors", [1, 4])
def test_gray_images_and_images_with_transparency(tiny: dict[str, Tensor], colors: int) -> None:
    for name, tensor in tiny.items():
        if name.startswith("to_rgb") and name.endswith(("rgb1.bias", ".conv.weight")):
            tiny[name] = torch.cat([tensor, tensor[:, :1]], 1)[:, :colors].contiguous()
        if name.startswith("to_rgbs") and name.endswith(".bias") and "modulation" not in name:
            tiny[name] = torch.cat([tensor, tensor[:, :1]], 1)[:, :colors].contiguous()
    torch.save({"g_ema": tiny}, "net.pt")
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    edit = {"name": "e", "layer": "layer6", "source": place, "target": {**place, "latent": 2}}
    spec = {
        "version": 1,
        "model": {"family": "stylegan2", "weights": "net.pt"},
        "statistics": {"samples": 32},
        "edits": [{**edit, "solver": {"method": "direct", "steps": 5}}],
        "checks": [{"measure": "collateral", "images": [{"latents": [3, 4]}], "at_most": 9}],
    }
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    assert run("build", "spec.yaml", "-o", "out", "--check", "--report").exit_code == 0
    assert said("inspect", "net.pt")["image_channels"] == colors
    assert run("render", "spec.yaml", "-o", "pictures.png", "--count", "2").exit_code == 0


def test_an_unknown_layout_is_listed_and_a_family_forced(tiny: dict[str, Tensor]) -> None:
    save_file({f"{name}.0": tensor for name, tensor in tiny.items()}, "other.safetensors")
    for command in (
        ["inspect", "other.safetensors"],
        ["convert", "other.safetensors", "x.safetensors"],
    ):
        result = run(*command)
        assert result.exit_code == 1
        for part in (
            "expected style.1.weight",
            "found conv1.activate.bias.0",
            "tensors)",
            "--family",
        ):
            assert part in result.stderr
        forced = run(*command, "--family", "stylegan2")
        assert (forced.exit_code, "as stylegan2" in forced.stderr) == (1, False)
        assert run(*command, "--family", "stylegan").exit_code == 1
    assert not Path("x.safetensors").exists()


def test_what_is_in_the_way_stays(tiny: dict[str, Tensor]) -> None:
    save_file(tiny, "tiny.safetensors")
    Path("notes").write_text("precious")
    before = Path("tiny.safetensors").read_bytes()
    for out in ("notes", "tiny.safetensors"):
        result = run("convert", "tiny.safetensors", out)
        assert (result.exit_code, "is in the way" in result.stderr) == (1, True)
    assert Path("tiny.safetensors").read_bytes() == before
    for _ in range(2):
        said("convert", "tiny.safetensors", "mine.safetensors")
    assert run("convert", "none.pt", "x.safetensors").exit_code == 2


def test_half_precision_weights_are_computed_with_in_full(tiny: dict[str, Tensor]) -> None:
    from editspec_runtime.families.open import make_model

    half = {name: tensor.half() for name, tensor in tiny.items()}
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    images = make_model("stylegan2", half).images(z)
    assert images.dtype == torch.float32
    assert torch.equal(
        images, make_model("stylegan2", {n: t.float() for n, t in half.items()}).images(z)
    )


@pytest.mark.parametrize("container", ["classes.pt", "classes.safetensors"])
def test_a_class_is_asked_for(tiny: dict[str, Tensor], container: str) -> None:
    weights = nvidia_names(tiny) | {
        "mapping.embed.weight": torch.ones(8, 3),
        "mapping.embed.bias": torch.ones(8),
    }
    weights["mapping.fc0.weight"] = torch.ones(8, 16)
    torch.save(weights, "classes.pt")
    save_file(weights, "classes.safetensors")
    torch.save(tiny, "plain.pt")
    save_file(tiny, "plain.safetensors")
    place = {"latent": 1, "mask": {"box": [4, 4, 20, 20]}}
    solver = {"method": "direct", "steps": 1}
    edit = {"name": "e", "layer": "layer6", "source": place, "target": place, "solver": solver}
    spec: dict[str, Any] = {"version": 1, "statistics": {"samples": 32}, "edits": [edit]}

    def outcome(weights: str, **model: Any) -> tuple[int, str]:
        spec["model"] = {"family": "stylegan2", "weights": weights, **model}
        Path("spec.yaml").write_text(yaml.safe_dump(spec))
        result = run("build", "spec.yaml", "-o", "out")
        return result.exit_code, result.stderr

    code, message = outcome(container)
    assert (code, "these weights draw 3 classes, and none is given" in message) == (2, True)
    code, message = outcome(container, class_label=3)
    assert (code, "the classes are 0 to 2" in message) == (2, True)
    code, message = outcome(container.replace("classes", "plain"), class_label=0)
    assert (code, "these weights know no classes" in message) == (2, True)
    assert outcome(container, class_label=2)[0] == 0
