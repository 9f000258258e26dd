"""The layers of a StyleGAN2, read from rosinality's or NVIDIA's names and shapes.

Names are rosinality's here, and are translated where the tensors are named as NVIDIA's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from editspec_runtime.core.architecture import wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.shapes import fits_shape, list_problems, say_shape
from editspec_runtime.families.stylegan2.nvidia import (
    CLAMP,
    RESIDUAL,
    SKIP,
    find_wiring,
    is_nvidia,
    nvidia_name,
    nvidia_shape,
)
from editspec_runtime.io.headers import TensorInfo
from editspec_runtime.modalities.image.architecture import (
    CHANNELS,
    ImageArchitecture,
    image_layer,
)

MARKS = ("style.1.weight", "input.input", "conv1.conv.weight")
"""Tensors that tell a StyleGAN2 generator."""


Expected = dict[str, tuple[tuple[int | None, ...], bool]]
"""The shape of each tensor of a generator, and whether it must be there."""


def read_architecture(tensors: Mapping[str, TensorInfo]) -> ImageArchitecture:
    """The layers of a StyleGAN2 generator.

    Tensors are named as inside ``g_ema``, or as in NVIDIA's ``G_ema``. layer2 is ``conv1``, layerN
    is ``convs.{N-3}``; odd N upsample; layers 2j+1 and 2j+2 have resolution 2^(j+2). Raises
    `WeightsError` listing every tensor that is missing or of another shape.
    """
    name = checkpoint_name(tensors)
    blocks = _blocks(tensors)
    if not any(name(canonical) in tensors for canonical in MARKS):
        hint = "Give the g_ema of a rosinality checkpoint, or NVIDIA's pickle."
        if _is_stylegan3(tensors):
            hint = "StyleGAN3 is known by name alone; give a generator of StyleGAN2."
        raise WeightsError(_describe_strangers(tensors), hint)
    problems = _problems(tensors)
    if problems:
        raise WeightsError(
            f"These StyleGAN2 weights do not fit together:\n{list_problems(problems)}",
            "Give the whole state dict of one generator, in float32, float16 or bfloat16.",
        )
    layers = {}
    axes = "o i y x" if is_nvidia(tensors) else "1 o i y x"
    for number, block in enumerate(blocks, start=2):
        parameter = name(f"{block}.conv.weight")
        out_channels, in_channels = tensors[parameter].shape[-4:-2]
        value_size = resolution(number)
        key_size = value_size // 2 if upsamples(number) else value_size
        layer = image_layer(
            f"layer{number}", parameter, in_channels, out_channels, key_size, value_size, axes=axes
        )
        layers[layer.name] = layer
    embedded, classes = 0, 0
    if "mapping.embed.weight" in tensors:
        embedded, classes = tensors["mapping.embed.weight"].shape
    # The mapping takes the embedding of a class behind the latent.
    latent_size = tensors[name("style.1.weight")].shape[1] - embedded
    average = name("latent_avg") if name("latent_avg") in tensors else None
    return ImageArchitecture(
        "stylegan2",
        layers,
        layer.value_size,
        latent_size,
        classes,
        average,
        details=_details(tensors),
        notes=_notes(tensors),
        # Each convolution takes one, and the last to-RGB; the others share that of the next layer.
        styles=len(blocks) + 1,
        style_size=tensors[name("style.1.weight")].shape[0],
    )


def _details(tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """What differs from a generator of color images with skip connections."""
    details: dict[str, Any] = {}
    colors = count_colors(tensors)
    if colors != 3:
        details["image_channels"] = colors
    wiring = find_wiring(tensors)
    if wiring != SKIP:
        details["architecture"] = wiring
    return details


def _notes(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """What is assumed of a generator because its tensors do not say it."""
    if not is_nvidia(tensors) or CLAMP in tensors:
        return ()
    return (
        f"These weights hold no {CLAMP}: no clamp of the activations is assumed. NVIDIA's "
        "published networks clamp at 256, which their .pkl says and a state dict does not.",
    )


def count_colors(tensors: Mapping[str, TensorInfo]) -> int:
    """Count the channels of the images: 1 for gray ones, 4 with transparency."""
    bias = tensors.get(checkpoint_name(tensors)(f"{name_rgb(1 + len(_blocks(tensors)))}.bias"))
    return max(bias.shape, default=0) if bias is not None else 3


def name_rgb(number: int) -> str:
    """The name of what draws from layer `number`, which is even."""
    return "to_rgb1" if number == 2 else f"to_rgbs.{number // 2 - 2}"


def name_skip(number: int) -> str:
    """The name of the residual connection around layers `number` - 1 and `number`."""
    return f"skips.{number // 2 - 2}"


def resolution(number: int) -> int:
    """Height and width of the value map of layer `number` (2 for ``conv1``)."""
    return int(2 ** ((number + 3) // 2))


def upsamples(number: int) -> bool:
    """Whether layer `number` (2 for ``conv1``) doubles the resolution."""
    return number % 2 == 1


def checkpoint_name(tensors: Mapping[str, object]) -> Callable[[str], str]:
    """The translation from rosinality's names to those of a checkpoint's `tensors`."""
    return nvidia_name if is_nvidia(tensors) else lambda canonical: canonical


def expected_tensors(tensors: Mapping[str, TensorInfo]) -> Expected:
    """The shape of each tensor of a generator, and whether it must be there.

    By rosinality's names. An axis is None where nothing tells its length.
    """
    name = checkpoint_name(tensors)

    def length(canonical: str, axis: int) -> int | None:
        info = tensors.get(name(canonical))
        if info is None or not -len(info.shape) <= axis < len(info.shape):
            return None
        return info.shape[axis]

    wanted: Expected = {}
    blocks, drawing = _blocks(tensors), (find_wiring(tensors), count_colors(tensors))
    has_noise = not is_nvidia(tensors)  # NVIDIA's use_noise=False leaves noise out.
    style_size, inputs = length("style.1.weight", 0), length("style.1.weight", 1)
    embed = tensors.get("mapping.embed.weight")
    if embed is not None:
        wanted |= {
            "mapping.embed.weight": ((style_size, None), True),
            "mapping.embed.bias": ((style_size,), True),
        }
    mlp = 1
    while mlp == 1 or name(f"style.{mlp}.weight") in tensors:
        wanted |= {
            f"style.{mlp}.weight": ((style_size, inputs), True),
            f"style.{mlp}.bias": ((style_size,), True),
        }
        inputs, mlp = style_size, mlp + 1
    channels = length("input.input", -3)
    wanted["input.input"] = ((1, channels, 4, 4), True)
    for number, block in enumerate(blocks, start=2):
        out_channels = length(f"{block}.conv.weight", -4)
        size = resolution(number)
        wanted |= {
            f"{block}.conv.weight": ((1, out_channels, channels, 3, 3), True),
            f"{block}.conv.modulation.weight": ((channels, style_size), True),
            f"{block}.conv.modulation.bias": ((channels,), True),
            f"{block}.noise.weight": ((1,), has_noise),
            f"{block}.activate.bias": ((out_channels,), True),
            f"noises.noise_{number - 2}": ((1, 1, size, size), False),
        }
        if upsamples(number):
            wanted[f"{block}.conv.blur.kernel"] = ((4, 4), False)
            inputs = channels
        else:
            is_last = number == 1 + len(blocks)
            lengths = (inputs, out_channels, style_size)
            wanted |= _tensors_behind(number, is_last, lengths, *drawing)
        channels = out_channels
    return wanted


def _tensors_behind(
    number: int, is_last: bool, lengths: tuple[int | None, ...], wiring: str, colors: int
) -> Expected:
    """The expected tensors behind layer `number`, which is even: of drawing and of adding.

    `lengths` are the channels of the input and of the output of its block, and the size of w.
    """
    inputs, channels, style_size = lengths
    rgb, skip = name_rgb(number), name_skip(number)
    wanted: Expected = {}
    if wiring == SKIP or is_last:
        wanted |= {
            f"{rgb}.conv.weight": ((1, colors, channels, 1, 1), True),
            f"{rgb}.conv.modulation.weight": ((channels, style_size), True),
            f"{rgb}.conv.modulation.bias": ((channels,), True),
            f"{rgb}.bias": ((1, colors, 1, 1), True),
        }
    if wiring == SKIP and number > 2:
        wanted[f"{rgb}.upsample.kernel"] = ((4, 4), False)
    if wiring == RESIDUAL and number > 2:
        wanted[f"{skip}.weight"] = ((channels, inputs, 1, 1), True)
        wanted[f"{skip}.kernel"] = ((4, 4), False)
    return wanted


def _blocks(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The styled convolutions in order: conv1, convs.0, convs.1, … as far as they go."""
    name = checkpoint_name(tensors)
    blocks = ["conv1"]
    while name(f"convs.{len(blocks) - 1}.conv.weight") in tensors:
        blocks.append(f"convs.{len(blocks) - 1}")
    return blocks


def _is_stylegan3(names: Iterable[str]) -> bool:
    return any(name.startswith("synthesis.L0_") for name in names)


def _describe_strangers(tensors: Mapping[str, TensorInfo]) -> str:
    """Say that the tensors are not those of a StyleGAN2, and what they are."""
    names = sorted(tensors)
    found = ", ".join(names[:6]) or "no tensors"
    rest = f", … ({len(names)} tensors)" if len(names) > 6 else ""
    kind = ""
    if _is_stylegan3(tensors):
        kind = " They look like a StyleGAN3 generator."
    return (
        "These weights are not a StyleGAN2 generator in the layout of rosinality or NVIDIA: "
        "expected style.1.weight, input.input, conv1.conv.weight, convs.0.conv.weight, … or "
        "mapping.fc0.weight, synthesis.b4.const, synthesis.b4.conv1.weight, …; "
        f"found {found}{rest}.{kind}"
    )


def _problems(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """List everything that does not fit, in words."""
    name, blocks = checkpoint_name(tensors), _blocks(tensors)
    expected, nvidia = expected_tensors(tensors), is_nvidia(tensors)
    problems = _picture_problems(tensors)
    if len(blocks) % 2 == 0:
        last = name(f"{blocks[-1]}.conv.weight")
        problems.append(f"{last} upsamples, and nothing follows it")
    for canonical, (shape, required) in expected.items():
        own = name(canonical)
        wanted = nvidia_shape(canonical, shape) if nvidia else shape
        found = tensors.get(own)
        if found is None and required:
            problems.append(f"{own} is missing (expected {say_shape(wanted)})")
        if found is not None and not fits_shape(found.shape, wanted):
            problems.append(f"{own} is {say_shape(found.shape)}, expected {say_shape(wanted)}")
    average = name("latent_avg")
    if average in tensors:
        problems += _average_problems(tensors, average)
    names = [name(canonical) for canonical in expected]
    return problems + wrong_numbers(tensors, [*names, average])


def _picture_problems(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Say that images are not square, or have channels that no picture has."""
    problems = []
    constant = checkpoint_name(tensors)("input.input")
    shape = tensors[constant].shape if constant in tensors else ()
    if len(shape) >= 2 and shape[-2] != shape[-1]:
        problems.append(
            f"{constant} is {say_shape(shape)}: these images are not square, and square ones only "
            "are drawn"
        )
    colors = count_colors(tensors)
    if colors not in CHANNELS:
        problems.append(f"its images have {colors} channels, expected 1 (gray), 3 or 4 (RGBA)")
    return problems


def _average_problems(tensors: Mapping[str, TensorInfo], average: str) -> list[str]:
    """Describe a mean of w that is not one w, [style_size] or [1, style_size]."""
    bias = tensors.get(checkpoint_name(tensors)("style.1.bias"))
    shape = tensors[average].shape
    if bias is None or shape in (bias.shape, (1, *bias.shape)):
        return []
    return [f"{average} is {say_shape(shape)}, expected {say_shape(bias.shape)}"]
