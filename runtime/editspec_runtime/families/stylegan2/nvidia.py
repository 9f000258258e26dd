"""The names and shapes that NVIDIA's code gives to the tensors of a StyleGAN2 generator. Imports no
torch.

stylegan2-ada-pytorch and the stylegan3 repository share them. A checkpoint of theirs keeps its
names everywhere: in its digest, in patches, in what `apply` and `convert` write. Only the network
looks at it through rosinality's names, which are called canonical here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CLAMP = "synthesis.conv_clamp"
"""What the activations are clamped to: an attribute in the pickle, kept beside the tensors, as
images depend on it.
"""

RGB_BIAS = re.compile(r"(to_rgb1|to_rgbs\.\d+)\.bias")

LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "conv.blur.kernel": "resample_filter",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}


def is_nvidia(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a generator of NVIDIA's."""
    return any(name.startswith(("synthesis.b4.", "mapping.fc0.")) for name in names)


def nvidia_name(canonical: str) -> str:
    """``convs.0.conv.weight`` -> ``synthesis.b8.conv0.weight``; layer k + 2 is ``conv1`` or
    ``convs.{k - 1}``.
    """
    if canonical == "input.input":
        return "synthesis.b4.const"
    if canonical == "latent_avg":
        return "mapping.w_avg"
    if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", canonical):
        return f"mapping.fc{int(found[1]) - 1}.{found[2]}"
    if found := re.fullmatch(r"noises\.noise_(\d+)", canonical):
        return f"{_convolution(int(found[1]))}.noise_const"
    if found := re.fullmatch(r"(?:conv1|convs\.(\d+))\.(.+)", canonical):
        return f"{_convolution(0 if found[1] is None else int(found[1]) + 1)}.{LAYER[found[2]]}"
    if found := re.fullmatch(r"(?:to_rgb1|to_rgbs\.(\d+))\.(.+)", canonical):
        block = f"synthesis.b{4 if found[1] is None else 2 ** (int(found[1]) + 3)}"
        return (
            f"{block}.resample_filter"
            if found[2] == "upsample.kernel"
            else f"{block}.torgb.{LAYER[found[2]]}"
        )
    return canonical


def nvidia_shape(canonical: str, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape that NVIDIA's tensor has where rosinality's has `shape`: without the axes of length
    1 around it.
    """
    if RGB_BIAS.fullmatch(canonical):
        return shape[1:2]
    if canonical.startswith("noises."):
        return shape[2:]
    return (
        shape[1:]
        if canonical == "input.input" or canonical.endswith((".conv.weight", ".noise.weight"))
        else shape
    )


def canonical_shape(canonical: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that rosinality's tensor has where NVIDIA's has `shape`."""
    if RGB_BIAS.fullmatch(canonical):
        return (1, *shape, 1, 1)
    if canonical.startswith("noises."):
        return (1, 1, *shape)
    return (
        (1, *shape)
        if canonical == "input.input" or canonical.endswith((".conv.weight", ".noise.weight"))
        else shape
    )


def _convolution(number: int) -> str:
    """Styled convolution `number` (0 for the one at 4 x 4)."""
    return (
        "synthesis.b4.conv1"
        if number == 0
        else f"synthesis.b{2 ** ((number + 5) // 2)}.conv{1 - number % 2}"
    )
