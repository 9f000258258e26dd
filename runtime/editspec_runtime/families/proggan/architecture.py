"""The layers of a Progressive GAN, read from the authors' names and shapes.

layerN is ``layerN.conv.weight`` and ``layerN.wscale.b``; layers 2j+1 and 2j+2 have resolution
2^(j+2). The last layer, ``output_HxW``, is a 1x1 convolution to the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from editspec_runtime.core.architecture import wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.shapes import fits_shape, list_problems, say_shape
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.modalities.image.architecture import ImageArchitecture, image_layer


def read_architecture(tensors: Mapping[str, TensorInfo]) -> ImageArchitecture:
    """The layers of a Progressive GAN generator.

    Raises `WeightsError` listing every tensor that is missing or of another shape.
    """
    count = _count_layers(tensors)
    output = _find_output(tensors)
    if not count or not output or len(tensors["layer1.conv.weight"].shape) != 4:
        found = ", ".join(sorted(tensors)[:6]) or "no tensors"
        rest = f", … ({len(tensors)} tensors)" if len(tensors) > 6 else ""
        raise WeightsError(
            "These weights are not a Progressive GAN generator: expected layer1.conv.weight, "
            "layer1.wscale.b, layer2.conv.weight, …, output_HxW.conv.weight; "
            f"found {found}{rest}.",
            "Give the generator's state dict in the layout of the paper's authors.",
        )
    problems = _problems(tensors, count, output)
    if problems:
        raise WeightsError(
            f"These Progressive GAN weights do not fit together:\n{list_problems(problems)}",
            "Give the whole state dict of one generator, in float32, float16 or bfloat16.",
        )
    layers = {}
    for number in range(1, count + 1):
        name, size = f"layer{number}", resolution(number)
        out_channels, in_channels = tensors[f"{name}.conv.weight"].shape[:2]
        # The key is the input of the convolution: where a layer upsamples, that comes before.
        key_size = 1 if number == 1 else size
        layers[name] = image_layer(
            name, f"{name}.conv.weight", in_channels, out_channels, key_size, size, linear=True
        )
    layers[output] = image_layer(
        output, f"{output}.conv.weight", out_channels, 3, size, size, linear=True
    )
    return ImageArchitecture("proggan", layers, size, layers["layer1"].in_features)


def resolution(number: int) -> int:
    """Height and width of the value map of layer `number`, which counts from 1."""
    return int(2 ** ((number + 3) // 2))


def _find_output(tensors: Mapping[str, TensorInfo]) -> str:
    """The name of the last layer, ``output_HxW``; empty where there is none."""
    for name in sorted(tensors):
        if re.match(r"output_\d+x\d+\.conv", name):
            return name.removesuffix(".conv.weight")
    return ""


def _count_layers(tensors: Mapping[str, TensorInfo]) -> int:
    """The number of layers among layer1, layer2, … up to the first gap."""
    number = 0
    while f"layer{number + 1}.conv.weight" in tensors:
        number += 1
    return number


def _problems(tensors: Mapping[str, TensorInfo], count: int, output: str) -> list[str]:
    """List everything that does not fit, in words."""
    size = resolution(count)
    problems = []
    if count % 2:
        problems.append(f"layer{count} upsamples, and nothing follows it")
    if output != f"output_{size}x{size}":
        problems.append(
            f"{output} is not what follows layer{count}, which has {size}x{size} positions"
        )
    expected: dict[str, tuple[int | None, ...]] = {}
    channels: int | None = None
    for number in range(1, count + 1):
        kernel = 4 if number == 1 else 3
        shape = tensors[f"layer{number}.conv.weight"].shape
        out_channels = shape[0] if shape else None
        expected[f"layer{number}.conv.weight"] = (out_channels, channels, kernel, kernel)
        expected[f"layer{number}.wscale.b"] = (out_channels,)
        channels = out_channels
    expected |= {f"{output}.conv.weight": (3, channels, 1, 1), f"{output}.wscale.b": (3,)}
    for name, wanted in expected.items():
        found = tensors.get(name)
        if found is None:
            problems.append(f"{name} is missing (expected {say_shape(wanted)})")
        elif not fits_shape(found.shape, wanted):
            problems.append(f"{name} is {say_shape(found.shape)}, expected {say_shape(wanted)}")
    return problems + wrong_numbers(tensors, expected)
