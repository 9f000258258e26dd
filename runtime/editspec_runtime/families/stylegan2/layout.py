"""StyleGAN2 in the published rosinality layout: every size read from the names and shapes of the tensors."""

from __future__ import annotations

from collections.abc import Mapping

from editspec_runtime.errors import WeightsError
from editspec_runtime.families.layout import LayerLayout, Layout
from editspec_runtime.files import TensorInfo


def layout(tensors: Mapping[str, TensorInfo]) -> Layout:
    """The layout of a StyleGAN2 generator whose tensors are named as inside ``g_ema``.

    layer2 is ``conv1``, layerN is ``convs.{N-3}``; odd N upsample; layers 2j+1 and 2j+2 have resolution 2^(j+2).
    Raises `WeightsError` listing every tensor that is missing or of another shape.
    """
    blocks = _blocks(tensors)
    style = tensors.get("style.1.weight")
    constant = tensors.get("input.input")
    if not blocks or style is None or len(style.shape) != 2 or constant is None or len(constant.shape) != 4:
        found = ", ".join(sorted(tensors)[:6]) or "no tensors"
        raise WeightsError(
            "These weights are not a StyleGAN2 generator in the rosinality layout: expected style.1.weight, "
            f"input.input, conv1.conv.weight, convs.0.conv.weight, …; found {found}"
            + (f", … ({len(tensors)} tensors)." if len(tensors) > 6 else "."),
            "Give the g_ema state dict of a rosinality checkpoint.",
        )
    problems = _problems(tensors, blocks, style.shape[1], constant.shape[1])
    if problems:
        raise WeightsError("These StyleGAN2 weights do not fit together:\n" + "\n".join(f"  - {p}" for p in problems))
    layers = {}
    for number, name in enumerate(blocks, start=2):
        _, out_channels, in_channels, _, _ = tensors[f"{name}.conv.weight"].shape
        value_size = 2 ** ((number + 3) // 2)
        key_size = value_size // 2 if upsamples(number) else value_size
        layer = LayerLayout(f"layer{number}", f"{name}.conv.weight", in_channels, out_channels, key_size, value_size)
        layers[layer.name] = layer
    return Layout("stylegan2", layers, layer.value_size, style.shape[1])


def upsamples(number: int) -> bool:
    """Whether layer `number` (2 for ``conv1``) doubles the resolution."""
    return number % 2 == 1


def _blocks(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The styled convolutions in order: conv1, convs.0, convs.1, … as far as they go."""
    names = ["conv1"]
    while f"convs.{len(names) - 1}.conv.weight" in tensors:
        names.append(f"convs.{len(names) - 1}")
    return names if "conv1.conv.weight" in tensors else []


def _problems(tensors: Mapping[str, TensorInfo], blocks: list[str], latent_size: int, channels: int) -> list[str]:
    """Everything that does not fit, in words. `channels` are those of the constant input."""
    expected: dict[str, tuple[int | None, ...]] = {"input.input": (1, channels, 4, 4)}
    mlp = 1
    while f"style.{mlp}.weight" in tensors:
        expected |= {f"style.{mlp}.weight": (latent_size, latent_size), f"style.{mlp}.bias": (latent_size,)}
        mlp += 1
    for number, name in enumerate(blocks, start=2):
        shape = tensors[f"{name}.conv.weight"].shape
        out_channels = shape[1] if len(shape) == 5 else None
        expected |= {
            f"{name}.conv.weight": (1, out_channels, channels, 3, 3),
            f"{name}.conv.modulation.weight": (channels, latent_size),
            f"{name}.conv.modulation.bias": (channels,),
            f"{name}.noise.weight": (1,),
            f"{name}.activate.bias": (out_channels,),
        }
        resolution = 2 ** ((number + 3) // 2)
        if f"noises.noise_{number - 2}" in tensors:
            expected[f"noises.noise_{number - 2}"] = (1, 1, resolution, resolution)
        if upsamples(number) and f"{name}.conv.blur.kernel" in tensors:
            expected[f"{name}.conv.blur.kernel"] = (4, 4)
        channels = out_channels or 0
        if not upsamples(number):
            rgb = "to_rgb1" if number == 2 else f"to_rgbs.{number // 2 - 2}"
            expected |= {
                f"{rgb}.conv.weight": (1, 3, channels, 1, 1),
                f"{rgb}.conv.modulation.weight": (channels, latent_size),
                f"{rgb}.conv.modulation.bias": (channels,),
                f"{rgb}.bias": (1, 3, 1, 1),
            }
            if number > 2 and f"{rgb}.upsample.kernel" in tensors:
                expected[f"{rgb}.upsample.kernel"] = (4, 4)
    problems = [] if len(blocks) % 2 else [f"{blocks[-1]} upsamples, and nothing follows it"]
    for name, wanted in expected.items():
        found = tensors.get(name)
        text = " x ".join("?" if n is None else str(n) for n in wanted)
        if found is None:
            problems.append(f"{name} is missing (expected {text})")
        elif len(found.shape) != len(wanted) or any(
            w not in (None, f) for w, f in zip(wanted, found.shape, strict=True)
        ):
            problems.append(f"{name} is {' x '.join(map(str, found.shape))}, expected {text}")
        elif found.dtype not in ("F64", "F32", "F16", "BF16"):
            problems.append(f"{name} holds {found.dtype} numbers, expected floating point")
    return problems
