"""Names and shapes of a StyleGAN2's tensors in NVIDIA's code; imports no torch.

stylegan2-ada-pytorch and the stylegan3 repository share them. A checkpoint of theirs keeps its
names everywhere: in its digest, in patches, in what `apply` and `convert` write. Only the network
looks at it through rosinality's names, which are called canonical here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CLAMP = "synthesis.conv_clamp"
"""The tensor that holds the clamp of the activations.

In the pickle an attribute; here among the tensors, as images depend on it.
"""

SKIP, RESIDUAL, PLAIN = "skip", "resnet", "orig"
"""NVIDIA's names of the ways in which blocks are wired.

Each block adds to the image; each adds to its input; or there is one path alone.
"""

WIRINGS = (SKIP, RESIDUAL, PLAIN)

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
    """Whether tensors of these names are a generator of NVIDIA's code."""
    return any(name.startswith(("synthesis.b4.", "mapping.fc0.")) for name in names)


def find_wiring(names: Iterable[str]) -> str:
    """Find how the blocks of a generator are wired, one of `WIRINGS`."""
    known = set(names)
    if any(re.match(r"synthesis\.b\d+\.skip\.", name) for name in known):
        return RESIDUAL
    sizes = {int(found[1]) for name in known if (found := re.match(r"synthesis\.b(\d+)\.", name))}
    drawing = {size for size in sizes if f"synthesis.b{size}.torgb.weight" in known}
    # With the last block alone drawing, there is nothing to add up.
    return PLAIN if len(sizes) > 1 and drawing == {max(sizes)} else SKIP


def nvidia_name(canonical: str) -> str:
    """Translate rosinality's name of a tensor into NVIDIA's.

    ``convs.0.conv.weight`` becomes ``synthesis.b8.conv0.weight``; layer k + 2 is ``conv1`` or
    ``convs.{k - 1}``. A name without a counterpart stays as it is.
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
        number = 0 if found[1] is None else int(found[1]) + 1
        return f"{_convolution(number)}.{LAYER[found[2]]}"
    if found := re.fullmatch(r"(?:to_rgb1|to_rgbs\.(\d+))\.(.+)", canonical):
        size = 4 if found[1] is None else 2 ** (int(found[1]) + 3)
        if found[2] == "upsample.kernel":
            return f"synthesis.b{size}.resample_filter"
        return f"synthesis.b{size}.torgb.{LAYER[found[2]]}"
    if found := re.fullmatch(r"skips\.(\d+)\.(weight|kernel)", canonical):
        own = {"weight": "weight", "kernel": "resample_filter"}[found[2]]
        return f"synthesis.b{2 ** (int(found[1]) + 3)}.skip.{own}"
    return canonical


def nvidia_shape(canonical: str, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape of NVIDIA's tensor where rosinality's has `shape`.

    NVIDIA's tensors lack some of the axes of length 1.
    """
    if RGB_BIAS.fullmatch(canonical):
        return shape[1:2]
    if canonical.startswith("noises."):
        return shape[2:]
    return shape[1:] if _has_sample_axis(canonical) else shape


def canonical_shape(canonical: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of rosinality's tensor where NVIDIA's has `shape`."""
    if RGB_BIAS.fullmatch(canonical):
        return (1, *shape, 1, 1)
    if canonical.startswith("noises."):
        return (1, 1, *shape)
    return (1, *shape) if _has_sample_axis(canonical) else shape


def _has_sample_axis(canonical: str) -> bool:
    """Whether rosinality's tensor has a first axis of length 1 that NVIDIA's lacks."""
    return canonical == "input.input" or canonical.endswith((".conv.weight", ".noise.weight"))


def _convolution(number: int) -> str:
    """The module of styled convolution `number`, which is 0 for the one at 4 x 4."""
    if number == 0:
        return "synthesis.b4.conv1"
    # Odd numbers upsample and are conv0 of a new resolution, even ones its conv1.
    return f"synthesis.b{2 ** ((number + 5) // 2)}.conv{1 - number % 2}"
