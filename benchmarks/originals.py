"""StyleGAN2 by its originals: ``python benchmarks/originals.py CHECKOUT``.

Their images are compared with those by editspec.

CHECKOUT is a folder with the sources of stylegan2-ada-pytorch, of the stylegan3 repository or of
rosinality's stylegan2-pytorch, which are not part of this project. Their generators are made with
random weights and saved as their training saves them. editspec reads the file, and both draw the
same latents on the CPU, where the originals use no operator of their own. The training files of the
originals import scipy. Prints the largest difference of any pixel.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.modalities.image.fields import GeneratorFields
from editspec_runtime.modalities.image.generator import make_picture

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
    latents, labels = torch.randn(count, latent), torch.zeros(count, classes)
    if label is not None:
        labels[:, label] = 1
    # Half precision is for their training on a GPU.
    images = saved["G_ema"](
        latents, labels, truncation_psi=psi, noise_mode="const", force_fp32=True
    )
    return latents, make_picture(images)


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
    draw: Callable[..., tuple[Tensor, Tensor]] = draw_by_nvidia
    cases, ending = NVIDIA, "pkl"
    if Path(sys.argv[1], "model.py").is_file():
        draw, cases, ending = draw_by_rosinality, ROSINALITY, "pt"
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"original.{ending}")
        for name, case in cases.items():
            torch.manual_seed(0)
            latents, wanted = draw(file, **case)
            fields = GeneratorFields(
                family="stylegan2",
                weights=str(file),
                truncation=case.get("psi", 1.0),
                class_label=case.get("label"),
            )
            model = make_model("stylegan2", read_weights(file).tensors, fields)
            difference = float((model.images(latents) - wanted).abs().max())
            highest = float(wanted.abs().max())
            print(
                f"{case['size']:4d} pixels, {name}: {difference:.1e} of {highest:.0f}", flush=True
            )
            largest = max(largest, difference)
    print(f"largest difference: {largest:.1e}")
    sys.exit(largest > 1e-3)


if __name__ == "__main__":
    main()
