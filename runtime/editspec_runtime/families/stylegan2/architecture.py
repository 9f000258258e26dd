"""StyleGAN2 in the layouts of rosinality and NVIDIA: every size read from the names and shapes of
the tensors.

Names are rosinality's here, and translated where the tensors are named as NVIDIA's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from editspec_runtime.core.architecture import wrong_numbers
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.stylegan2.nvidia import is_nvidia, nvidia_name, nvidia_shape
from editspec_runtime.io.files import TensorInfo
from editspec_runtime.modalities.image.architecture import ImageArchitecture, image_layer

MARKS = ("style.1.weight", "input.input", "conv1.conv.weight")
"""By these a StyleGAN2 generator is known."""


def read_architecture(tensors: Mapping[str, TensorInfo]) -> ImageArchitecture:
    """The layout of a StyleGAN2 generator whose tensors are named as inside ``g_ema``, or as in
    NVIDIA's ``G_ema``.

    layer2 is ``conv1``, layerN is ``convs.{N-3}``; odd N upsample; layers 2j+1 and 2j+2 have
    resolution 2^(j+2). Raises `WeightsError` listing every tensor that is missing or of another
    shape.
    """
    name = checkpoint_name(tensors)
    blocks = _blocks(tensors)
    if not any(name(canonical) in tensors for canonical in MARKS):
        raise WeightsError(
            _unknown(tensors), "Give the g_ema of a rosinality checkpoint, or NVIDIA's pickle."
        )
    problems = _problems(tensors)
    if problems:
        raise WeightsError(
            "These StyleGAN2 weights do not fit together:\n"
            + "\n".join(f"  - {p}" for p in problems)
        )
    layers = {}
    for number, block in enumerate(blocks, start=2):
        parameter = name(f"{block}.conv.weight")
        out_channels, in_channels = tensors[parameter].shape[-4:-2]
        value_size = 2 ** ((number + 3) // 2)
        key_size = value_size // 2 if upsamples(number) else value_size
        axes = "o i y x" if is_nvidia(tensors) else "1 o i y x"
        layer = image_layer(
            f"layer{number}", parameter, in_channels, out_channels, key_size, value_size, axes=axes
        )
        layers[layer.name] = layer
    embedded, classes = (
        tensors["mapping.embed.weight"].shape if "mapping.embed.weight" in tensors else (0, 0)
    )
    latent_size = tensors[name("style.1.weight")].shape[1] - embedded
    average = name("latent_avg") if name("latent_avg") in tensors else None
    return ImageArchitecture("stylegan2", layers, layer.value_size, latent_size, classes, average)


def upsamples(number: int) -> bool:
    """Whether layer `number` (2 for ``conv1``) doubles the resolution."""
    return number % 2 == 1


def checkpoint_name(tensors: Mapping[str, object]) -> Callable[[str], str]:
    """The translation from rosinality's names to those of the checkpoint that holds `tensors`."""
    return nvidia_name if is_nvidia(tensors) else lambda canonical: canonical


def expected(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[tuple[int | None, ...], bool]]:
    """The tensors of a generator by rosinality's names: the shape that each must have, and whether
    it must be there.
    """
    name = checkpoint_name(tensors)

    def found(canonical: str, axis: int) -> int | None:
        shape = tensors[name(canonical)].shape if name(canonical) in tensors else ()
        return shape[axis] if -len(shape) <= axis < len(shape) else None

    wanted: dict[str, tuple[tuple[int | None, ...], bool]] = {}
    style_size, inputs = found("style.1.weight", 0), found("style.1.weight", 1)
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
    channels = found("input.input", -3)
    wanted["input.input"] = ((1, channels, 4, 4), True)
    for number, block in enumerate(_blocks(tensors), start=2):
        out_channels = found(f"{block}.conv.weight", -4)
        resolution = 2 ** ((number + 3) // 2)
        wanted |= {
            f"{block}.conv.weight": ((1, out_channels, channels, 3, 3), True),
            f"{block}.conv.modulation.weight": ((channels, style_size), True),
            f"{block}.conv.modulation.bias": ((channels,), True),
            f"{block}.noise.weight": (
                (1,),
                not is_nvidia(tensors),
            ),  # NVIDIA's use_noise=False leaves noise out
            f"{block}.activate.bias": ((out_channels,), True),
            f"noises.noise_{number - 2}": ((1, 1, resolution, resolution), False),
        }
        if upsamples(number):
            wanted[f"{block}.conv.blur.kernel"] = ((4, 4), False)
        channels = out_channels
        if not upsamples(number):
            rgb = "to_rgb1" if number == 2 else f"to_rgbs.{number // 2 - 2}"
            wanted |= {
                f"{rgb}.conv.weight": ((1, 3, channels, 1, 1), True),
                f"{rgb}.conv.modulation.weight": ((channels, style_size), True),
                f"{rgb}.conv.modulation.bias": ((channels,), True),
                f"{rgb}.bias": ((1, 3, 1, 1), True),
            }
            if number > 2:
                wanted[f"{rgb}.upsample.kernel"] = ((4, 4), False)
    return wanted


def _blocks(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The styled convolutions in order: conv1, convs.0, convs.1, … as far as they go."""
    name = checkpoint_name(tensors)
    blocks = ["conv1"]
    while name(f"convs.{len(blocks) - 1}.conv.weight") in tensors:
        blocks.append(f"convs.{len(blocks) - 1}")
    return blocks


def _unknown(tensors: Mapping[str, TensorInfo]) -> str:
    names = sorted(tensors)
    found = ", ".join(names[:6]) or "no tensors"
    rest = f", … ({len(names)} tensors)" if len(names) > 6 else ""
    kind = (
        " They look like a StyleGAN3 generator."
        if any(n.startswith("synthesis.L0") for n in names)
        else ""
    )
    return (
        "These weights are not a StyleGAN2 generator in the layout of rosinality or NVIDIA: expected style.1.weight, "
        "input.input, conv1.conv.weight, convs.0.conv.weight, … or mapping.fc0.weight, synthesis.b4.const, "
        f"synthesis.b4.conv1.weight, …; found {found}{rest}.{kind}"
    )


def _problems(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Everything that does not fit, in words."""
    name, blocks = checkpoint_name(tensors), _blocks(tensors)
    problems = (
        []
        if len(blocks) % 2
        else [f"{name(blocks[-1] + '.conv.weight')} upsamples, and nothing follows it"]
    )
    for canonical, (shape, required) in expected(tensors).items():
        wanted = nvidia_shape(canonical, shape) if is_nvidia(tensors) else shape
        found = tensors.get(name(canonical))
        text = " x ".join("?" if n is None else str(n) for n in wanted) or "one number"
        if found is None:
            problems += [f"{name(canonical)} is missing (expected {text})"] if required else []
        elif len(found.shape) != len(wanted) or any(
            w not in (None, f) for w, f in zip(wanted, found.shape, strict=True)
        ):
            problems.append(
                f"{name(canonical)} is {' x '.join(map(str, found.shape))}, expected {text}"
            )
    return problems + wrong_numbers(tensors, (name(canonical) for canonical in expected(tensors)))
