"""Progressive GAN in the layout of the paper's authors: every size read from the names and shapes
of the tensors.

layerN is ``layerN.conv.weight`` and ``layerN.wscale.b``; layers 2j+1 and 2j+2 have resolution
2^(j+2). The last layer, ``output_HxW``, is a 1x1 convolution to the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from editspec_runtime.core.architecture import wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.io.files import TensorInfo
from editspec_runtime.modalities.image.architecture import ImageArchitecture, image_layer


def read_architecture(tensors: Mapping[str, TensorInfo]) -> ImageArchitecture:
    """The layout of a Progressive GAN generator.

    Raises `WeightsError` listing every tensor that is missing or of another shape.
    """
    count = _count(tensors)
    output = next(
        (
            name[: -len(".conv.weight")]
            for name in sorted(tensors)
            if re.match(r"output_\d+x\d+\.conv", name)
        ),
        "",
    )
    if not count or not output or len(tensors["layer1.conv.weight"].shape) != 4:
        found = ", ".join(sorted(tensors)[:6]) or "no tensors"
        raise WeightsError(
            "These weights are not a Progressive GAN generator: expected layer1.conv.weight, layer1.wscale.b, "
            f"layer2.conv.weight, …, output_HxW.conv.weight; found {found}"
            + (f", … ({len(tensors)} tensors)." if len(tensors) > 6 else "."),
            "Give the generator's state dict in the layout of the paper's authors.",
        )
    problems = _problems(tensors, count, output)
    if problems:
        text = "\n".join(f"  - {problem}" for problem in problems)
        raise WeightsError(f"These Progressive GAN weights do not fit together:\n{text}")
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
    """Height and width of the value map of layer `number`, from 1."""
    return int(2 ** ((number + 3) // 2))


def _count(tensors: Mapping[str, TensorInfo]) -> int:
    """How many of layer1, layer2, … there are without a gap."""
    number = 0
    while f"layer{number + 1}.conv.weight" in tensors:
        number += 1
    return number


def _problems(tensors: Mapping[str, TensorInfo], count: int, output: str) -> list[str]:
    """Everything that does not fit, in words."""
    size = resolution(count)
    problems = [f"layer{count} upsamples, and nothing follows it"] if count % 2 else []
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
        text = " x ".join("?" if n is None else str(n) for n in wanted)
        if found is None:
            problems.append(f"{name} is missing (expected {text})")
        elif len(found.shape) != len(wanted) or any(
            w not in (None, f) for w, f in zip(wanted, found.shape, strict=True)
        ):
            problems.append(f"{name} is {' x '.join(map(str, found.shape))}, expected {text}")
    return problems + wrong_numbers(tensors, expected)
