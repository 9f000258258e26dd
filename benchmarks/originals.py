"""StyleGAN2 by its originals: ``python benchmarks/originals.py CHECKOUT``.

Their images are compared with those by editspec.

CHECKOUT is a folder with the sources of stylegan2-ada-pytorch, of the stylegan3 repository or of
rosinality's stylegan2-pytorch, which are not part of this project. Their generators are made with
random weights and saved as their training saves them. editspec reads the file, and both draw the
same latents on the CPU, where the originals use no operator of their own. The training files of the
originals import scipy. Prints the largest difference of any pixel.

Then the way back: a patch that changes two layers is applied to the file, in its own container. The
original's own loading code loads the result and draws, editspec draws, and the images have moved
alike; whatever else the file holds is as it was.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import editspec
from editspec.engine.opening import find_architecture
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.modalities.image.fields import GeneratorFields
from editspec_runtime.modalities.image.generator import make_picture
from editspec_runtime.patches.patch import Patch, apply_stack, make_patch

NVIDIA: dict[str, dict[str, Any]] = {
    "configuration F": {"size": 64},
    "configuration F, truncated": {"size": 256, "psi": 0.5},
    "configuration F, one image": {"size": 1024, "psi": 0.7, "count": 1},
    "half the channels": {"size": 256, "base": 16384},
    "classes": {"size": 64, "base": 8192, "mlp": 2, "classes": 10, "label": 3},
    "classes, truncated": {"size": 32, "mlp": 2, "classes": 10, "label": 9, "psi": 0.7},
    "one block after the first": {"size": 8, "base": 4096, "psi": 0.5},
    "no clamp": {"size": 16, "clamp": None},
    "a clamp that bites": {"size": 32, "clamp": 1.0},
    "other lengths of z and w": {"size": 32, "base": 2048, "latent": 64, "style": 96},
    "no noise": {"size": 32, "more": {"use_noise": False}},
    "residual connections": {"size": 64, "more": {"architecture": "resnet"}},
    "residual connections, a clamp that bites": {
        "size": 32,
        "clamp": 1.0,
        "more": {"architecture": "resnet"},
    },
    "neither": {"size": 64, "psi": 0.7, "more": {"architecture": "orig"}},
    "gray": {"size": 64, "colors": 1},
    "with transparency": {"size": 64, "colors": 4},
    "another filter": {"size": 32, "more": {"resample_filter": [1, 2, 1, 3]}},
}
ROSINALITY: dict[str, dict[str, Any]] = {
    "smallest": {"size": 8},
    "truncated": {"size": 64, "psi": 0.7},
    "256 pixels, truncated": {"size": 256, "psi": 0.5},
    "half the channels": {"size": 256, "multiplier": 1},
    "other lengths of w": {"size": 32, "style": 64, "mlp": 4},
    "one image": {"size": 1024, "psi": 0.7, "count": 1},
}


def draw_by_nvidia(
    file: Path,
    size: int,
    base: int = 32768,
    mlp: int = 8,
    classes: int = 0,
    label: int | None = None,
    psi: float = 1.0,
    clamp: float | None = 256.0,
    latent: int = 512,
    style: int = 512,
    count: int = 3,
    colors: int = 3,
    more: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw by a generator of NVIDIA's, and save it as their training does.

    Returns latents [count, latent] and pictures [count, 3, size, size].
    """
    dnnlib = importlib.import_module("dnnlib")
    third = Path(sys.path[0], "training", "networks_stylegan2.py").is_file()
    networks = importlib.import_module(
        "training.networks_stylegan2" if third else "training.networks"
    )
    synthesis = {
        "channel_base": base,
        "num_fp16_res": 4 if clamp else 0,
        "conv_clamp": clamp,
        **(more or {}),
    }
    generator = networks.Generator(
        z_dim=latent,
        c_dim=classes,
        w_dim=style,
        img_resolution=size,
        img_channels=colors,
        mapping_kwargs=dnnlib.EasyDict(num_layers=mlp),
        **(synthesis if third else {"synthesis_kwargs": dnnlib.EasyDict(synthesis)}),
    )
    _randomize_zeros(generator)
    generator.mapping.w_avg.copy_(0.1 * torch.randn(style))
    discriminator = networks.Discriminator(
        c_dim=classes, img_resolution=size, img_channels=colors, channel_base=1024, channel_max=32
    )
    augment = importlib.import_module("training.augment").AugmentPipe(xflip=1, scale=1, hue=1)
    saved: dict[str, Any] = {"training_set_kwargs": {"path": "images.zip", "resolution": size}}
    for name, module in (
        ("G", generator),
        ("D", discriminator),
        ("G_ema", generator),
        ("augment_pipe", augment),
    ):
        saved[name] = copy.deepcopy(module).eval().requires_grad_(False)
    file.write_bytes(pickle.dumps(saved))
    latents = torch.randn(count, latent)
    return latents, _run_nvidia(saved["G_ema"], latents, classes, label, psi)


def _run_nvidia(
    generator: Any, latents: Tensor, classes: int, label: int | None, psi: float
) -> Tensor:
    labels = torch.zeros(len(latents), classes)
    if label is not None:
        labels[:, label] = 1
    # Half precision is for their training on a GPU.
    images: Tensor = generator(
        latents, labels, truncation_psi=psi, noise_mode="const", force_fp32=True
    )
    return make_picture(images)


def redraw_by_nvidia(file: Path, latents: Tensor, case: dict[str, Any]) -> Tensor:
    """Draw by what NVIDIA's own loader makes of a pickle."""
    legacy = importlib.import_module("legacy")
    with file.open("rb") as stream:
        generator = legacy.load_network_pkl(stream)["G_ema"]
    classes, label = case.get("classes", 0), case.get("label")
    return _run_nvidia(generator, latents, classes, label, case.get("psi", 1.0))


def rest_of_nvidia(file: Path) -> dict[str, Tensor]:
    """The tensors of all networks of a pickle but of G_ema, by NVIDIA's own loader."""
    legacy = importlib.import_module("legacy")
    with file.open("rb") as stream:
        content = legacy.load_network_pkl(stream)
    rest = {}
    for network in ("G", "D", "augment_pipe"):
        for name, tensor in content[network].state_dict().items():
            rest[f"{network}.{name}"] = tensor
    return rest


def draw_by_rosinality(
    file: Path,
    size: int,
    style: int = 512,
    mlp: int = 8,
    multiplier: int = 2,
    psi: float = 1.0,
    count: int = 3,
) -> tuple[Tensor, Tensor]:
    """Draw by a generator of rosinality's, and save it as its training does.

    Returns latents [count, 512] and images [count, 3, size, size].
    """
    # Its operators for a GPU are compiled on import; a CPU needs none of them.
    extension: Any = importlib.import_module("torch.utils.cpp_extension")
    extension.load = lambda *_, **__: None
    module = importlib.import_module("model")
    generator = module.Generator(size, style, mlp, channel_multiplier=multiplier).eval()
    _randomize_zeros(generator)
    average, latents = 0.1 * torch.randn(style), torch.randn(count, style)
    torch.save(
        {"g": generator.state_dict(), "g_ema": generator.state_dict(), "latent_avg": average}, file
    )
    images, _ = generator(
        [latents], truncation=psi, truncation_latent=average[None], randomize_noise=False
    )
    return latents, images


def redraw_by_rosinality(file: Path, latents: Tensor, case: dict[str, Any]) -> Tensor:
    """Draw by what rosinality's generate.py makes of a checkpoint."""
    module = importlib.import_module("model")
    generator = module.Generator(
        case["size"],
        case.get("style", 512),
        case.get("mlp", 8),
        channel_multiplier=case.get("multiplier", 2),
    )
    checkpoint = torch.load(file, map_location=lambda storage, _: storage, weights_only=True)
    generator.load_state_dict(checkpoint["g_ema"])
    average = checkpoint["latent_avg"][None]
    images: Tensor = generator.eval()(
        [latents],
        truncation=case.get("psi", 1.0),
        truncation_latent=average,
        randomize_noise=False,
    )[0]
    return images


def rest_of_rosinality(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are not those of g_ema."""
    checkpoint = torch.load(file, weights_only=True)
    rest = {f"g.{name}": tensor for name, tensor in checkpoint["g"].items()}
    return rest | {"latent_avg": checkpoint["latent_avg"]}


def make_edit(file: Path, patch: Path) -> None:
    """Write a patch that changes the last layer of a generator and the one before it."""
    base = read_weights(file)
    architecture = find_architecture(base, file)
    layers = list(architecture.layers.values())[-2:]
    deltas = {layer.parameter: 0.1 * torch.randn(base[layer.parameter].shape) for layer in layers}
    after = apply_stack(base, [Patch({}, {}, {}, deltas)])
    metadata = {
        "name": "edit",
        "family": architecture.family,
        "layers": [layer.name for layer in layers],
        "rank": None,
        "solver": {"method": "layer"},
        "edit": "0" * 64,
        "base": base.digest(),
        "parent": base.digest(),
        "result": after.digest(),
    }
    layouts = {layer.parameter: layer.axes for layer in layers}
    patch.write_bytes(make_patch({}, {}, layouts, metadata, deltas).to_bytes())


def draw_by_editspec(file: Path, latents: Tensor, case: dict[str, Any]) -> Tensor:
    """Draw by editspec's reading of a file."""
    fields = GeneratorFields(
        family="stylegan2",
        weights=str(file),
        truncation=case.get("psi", 1.0),
        class_label=case.get("label"),
    )
    images: Tensor = make_model("stylegan2", read_weights(file).tensors, fields).images(latents)
    return images


def compare_way_back(
    file: Path, original: Original, latents: Tensor, before: Tensor, case: dict[str, Any]
) -> tuple[float, float]:
    """Edit a file, and load it by the original.

    Returns how far the two move images apart, and how far images move. Raises `AssertionError`
    where the rest of the file is not as it was.
    """
    edited, patch = file.with_name(f"edited{file.suffix}"), file.with_name("patch.safetensors")
    make_edit(file, patch)
    ours = draw_by_editspec(file, latents, case)
    editspec.apply(str(file), [patch], edited)
    moved = original.redraw(edited, latents, case) - before
    own = draw_by_editspec(edited, latents, case) - ours
    kept, rest = original.rest(file), original.rest(edited)
    assert kept.keys() == rest.keys()
    assert all(torch.equal(rest[name], tensor) for name, tensor in kept.items())
    return float((moved - own).abs().max()), float(moved.abs().max())


@dataclass(frozen=True)
class Original:
    """The code of an original: how it draws and saves, how it loads and draws, and the rest."""

    draw: Callable[..., tuple[Tensor, Tensor]]
    redraw: Callable[[Path, Tensor, dict[str, Any]], Tensor]
    rest: Callable[[Path], dict[str, Tensor]]
    cases: dict[str, dict[str, Any]]
    ending: str


def _randomize_zeros(generator: nn.Module) -> None:
    """Add noise to the parameters that a new network has at zero or one.

    These are biases and strengths of noise; at zero, a wrong term would not show.
    """
    generator.requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise_strength", "noise.weight", "bias")):
            styles = name.endswith(("affine.bias", "modulation.bias"))
            parameter.add_((0.1 if styles else 0.3) * torch.randn_like(parameter))


@torch.no_grad()
def main() -> None:
    """Compare and print; exit code 1 where a pixel differs by more than 1e-3."""
    # The originals use functions that newer versions of torch warn of.
    warnings.simplefilter("ignore")
    sys.path.insert(0, sys.argv[1])
    original = Original(draw_by_nvidia, redraw_by_nvidia, rest_of_nvidia, NVIDIA, "pkl")
    if Path(sys.argv[1], "model.py").is_file():
        original = Original(
            draw_by_rosinality, redraw_by_rosinality, rest_of_rosinality, ROSINALITY, "pt"
        )
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"original.{original.ending}")
        for name, case in original.cases.items():
            torch.manual_seed(0)
            latents, wanted = original.draw(file, **case)
            difference = float((draw_by_editspec(file, latents, case) - wanted).abs().max())
            apart, moved = compare_way_back(file, original, latents, wanted, case)
            print(
                f"{case['size']:4d} pixels, {name}: {difference:.1e} of "
                f"{float(wanted.abs().max()):.0f}; edited: {apart:.1e} of {moved:.1f}",
                flush=True,
            )
            largest = max(largest, difference, apart)
    print(f"largest difference: {largest:.1e}")
    sys.exit(largest > 1e-3)


if __name__ == "__main__":
    main()
