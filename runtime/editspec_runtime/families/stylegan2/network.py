"""The StyleGAN2 generator in plain torch, as a function of its checkpoint's tensors.

Modulation and demodulation are applied to the input and the output of one shared convolution
(Karras et al. 2020, appendix B), which gives the same numbers as one kernel per sample and is far
faster on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.architecture import Layer
from editspec_runtime.core.compatibility import EDITSPEC, Compatibility, positional_noise
from editspec_runtime.families.stylegan2.architecture import expected, read_architecture, upsamples
from editspec_runtime.families.stylegan2.nvidia import (
    CLAMP,
    canonical_shape,
    is_nvidia,
    nvidia_name,
)
from editspec_runtime.io.files import TensorInfo
from editspec_runtime.maths.tiles import key_tiles, most_tiles, split_layers
from editspec_runtime.modalities.image.generator import (
    Box,
    ChannelwiseFunction,
    Generator,
    LayerFunction,
    LayerInput,
    unit_kernels,
)

SLOPE = 0.2
GAIN = math.sqrt(2)


@dataclass(frozen=True)
class Carried:
    """What goes past a layer: the image so far [n, 3, h, w] (None before the first to-RGB) and w
    [n, style_dim].
    """

    image: Tensor | None
    styles: Tensor


@dataclass(frozen=True)
class StyledConvolution(LayerFunction):
    """f(k; W) of one styled convolution: demodulation, noise, bias and leaky ReLU follow the
    convolution.

    Takes the arguments ``style`` [n, in_channels], which the demodulation needs, and ``noise``
    [1 or n, 1, h * scale, w * scale].
    """

    strength: Tensor
    bias: Tensor
    blur: Tensor | None
    clamp: float | None = None

    def __call__(
        self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Tensor:
        kernel = weight.reshape(weight.shape[-4:])
        energy = arguments["style"].square() @ kernel.square().sum((2, 3)).T
        return self._finished(
            self._convolved(key, kernel, haloed), energy, arguments, _scale(kernel)
        )

    def bound(
        self, key: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Callable[[Tensor], Tensor]:
        squares = arguments["style"].square().repeat_interleave(9, 1)
        convolved = self._products(key, haloed)

        def answer(weight: Tensor) -> Tensor:
            kernel = weight.reshape(weight.shape[-4:])
            energy = _WeightedSquares.of(kernel.flatten(1), squares)
            return self._finished(convolved(kernel), energy, arguments, _scale(kernel))

        return answer

    def weighted(
        self, weight: Tensor, *, haloed: bool = False
    ) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
        """The function of key and arguments, for many maps: what depends on the weight only is
        computed here.
        """
        kernel = weight.reshape(weight.shape[-4:])
        squares = torch.linalg.vector_norm(kernel, dim=(2, 3)).square().T
        # In the layout that the convolution would give it at every call.
        turned = kernel if self.blur is None else kernel.transpose(0, 1)
        turned = turned.contiguous(memory_format=torch.channels_last)
        laid = turned if self.blur is None else turned.transpose(0, 1)

        def answer(key: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
            energy = arguments["style"].square() @ squares
            return self._finished(
                self._convolved(key, laid, haloed), energy, arguments, _scale(kernel)
            )

        return answer

    def _products(self, key: Tensor, haloed: bool) -> Callable[[Tensor], Tensor]:
        """What is linear in an unscaled kernel, as one matrix product forward and one back."""
        if self.blur is not None:
            return self._transposed_products(key, haloed)
        # Images, then positions side by side.
        padding = 0 if haloed else 1
        height, width = key.shape[2] + 2 * padding - 2, key.shape[3] + 2 * padding - 2
        columns = F.unfold(key, 3, padding=padding).transpose(0, 1).flatten(1)

        def convolved(kernel: Tensor) -> Tensor:
            return (
                (kernel.flatten(1) @ columns)
                .view(len(kernel), len(key), height, width)
                .transpose(0, 1)
            )

        return convolved

    def _transposed_products(self, key: Tensor, haloed: bool) -> Callable[[Tensor], Tensor]:
        """The same of the transposed convolution, whose products are laid over each other, and the
        blur.
        """
        padding = 1 if haloed else 0
        size = (2 * key.shape[2] + 1 - 2 * padding, 2 * key.shape[3] + 1 - 2 * padding)
        columns = key.transpose(0, 1).flatten(1)

        def convolved(kernel: Tensor) -> Tensor:
            rows = kernel.movedim(1, -1).flatten(0, 2)
            products = (rows @ columns).view(len(rows), len(key), -1).transpose(0, 1)
            wide = F.fold(products, size, 3, padding=padding, stride=2)
            assert self.blur is not None
            return filtered(wide, self.blur, padding=0 if haloed else 1)

        return convolved

    def _finished(
        self, value: Tensor, energy: Tensor, arguments: Mapping[str, Tensor], scale: float
    ) -> Tensor:
        """Demodulation, noise, bias and activation, after the convolution.

        `value` and `energy` [n, out] are those of a kernel that has not been multiplied by its
        `scale` yet.
        """
        # Scale and gain go with what is multiplied and added anyway: the map is passed over twice
        # in all.
        factor = scale * GAIN * torch.rsqrt(scale**2 * energy + 1e-8)
        factor, offset = factor[:, :, None, None], GAIN * self._offset(arguments)
        if value.requires_grad or energy.requires_grad:
            value = F.leaky_relu(torch.addcmul(offset, value, factor), SLOPE)
            return value if self.clamp is None else value.clamp(-self.clamp, self.clamp)
        # The same in place: nobody else has the value, and on large maps new memory takes longer
        # than the numbers.
        if value.is_contiguous(memory_format=torch.channels_last):
            offset = offset.contiguous(memory_format=torch.channels_last)
        value = F.leaky_relu_(torch.addcmul(offset, value, factor, out=value), SLOPE)
        return value if self.clamp is None else value.clamp_(-self.clamp, self.clamp)

    @property
    def is_channelwise(self) -> bool:
        return True

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        if self.blur is None:
            return F.conv2d(key, kernel, padding=1)
        return F.conv_transpose2d(key, kernel.transpose(0, 1), stride=2)

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
        *,
        haloed: bool = False,
    ) -> ChannelwiseFunction:
        kernel = weight.reshape(weight.shape[-4:])
        scale = _scale(kernel)
        taps = kernel.shape[2:]
        unit = unit_kernels((len(directions), *taps), key)
        projected = torch.einsum("jihw,si->jshw", key, directions)
        squares = arguments["style"].square()
        weighted = squares[:, None] * directions
        gram = weighted @ directions.T
        return ChannelwiseFunction(
            response=scale * self._products(key, haloed)(kernel).flatten(2),
            design=self._convolved(projected, scale * unit, haloed).flatten(2).mT,
            offset=self._offset(arguments).flatten(2),
            energy=scale**2 * squares @ torch.linalg.vector_norm(kernel, dim=(2, 3)).square().T,
            cross=scale**2 * (weighted[:, None] @ kernel.flatten(2)).flatten(2),
            gram=scale**2
            * torch.stack([torch.kron(each, torch.eye(taps.numel()).to(each)) for each in gram]),
            slope=SLOPE,
            gain=GAIN,
            clamp=self.clamp,
            scale=scale,
        )

    def _convolved(self, key: Tensor, kernel: Tensor, haloed: bool) -> Tensor:
        """What is linear in a kernel [out, in, kh, kw]: the convolution, and the blur."""
        if self.blur is None:
            return F.conv2d(key, kernel, padding=0 if haloed else 1)
        # The halo reaches the blur too, so the transposed convolution drops one ring less.
        wide = F.conv_transpose2d(key, kernel.transpose(0, 1), stride=2, padding=1 if haloed else 0)
        return filtered(wide, self.blur, padding=0 if haloed else 1)

    def _offset(self, arguments: Mapping[str, Tensor]) -> Tensor:
        return self.strength * arguments["noise"] + self.bias[:, None, None]


class StyleGAN2(Generator):
    """A StyleGAN2 generator with skip connections.

    Parameters
    ----------
    weights
        The tensors by their names inside ``g_ema`` and ``latent_avg`` where truncation is wanted,
        or by NVIDIA's names.
    truncation
        w becomes avg + truncation * (w - avg).
    conventions
        Which noise is used.
    class_label
        Which class is drawn, where the generator is conditioned on classes.

    Raises
    ------
    WeightsError
        The tensors are not a StyleGAN2 generator.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        truncation: float = 1.0,
        conventions: Compatibility = EDITSPEC,
        class_label: int | None = None,
    ) -> None:
        self.weights = weights
        self.architecture = read_architecture(
            {name: TensorInfo("F32", tuple(t.shape)) for name, t in weights.items()}
        )
        self.named = _canonical(weights)
        self.truncation = truncation
        self.conventions = conventions
        self.class_label = class_label
        self.clamp = float(weights[CLAMP]) if CLAMP in weights else None

    def mapping(self, latents: Tensor) -> Tensor:
        """Latents z [n, latent_size] -> w [n, style_dim], truncated."""
        styles = _normalised(latents)
        if self.architecture.classes:
            assert self.class_label is not None
            # The embedding of a one-hot vector, equalised like every linear layer.
            weight = self.named["mapping.embed.weight"]
            embedded = (
                weight[:, self.class_label] / math.sqrt(weight.shape[1])
                + self.named["mapping.embed.bias"]
            )
            styles = torch.cat([styles, _normalised(embedded[None]).expand(len(styles), -1)], dim=1)
        number = 1
        while f"style.{number}.weight" in self.named:
            weight, bias = self.named[f"style.{number}.weight"], self.named[f"style.{number}.bias"]
            styles = F.linear(styles, weight * (0.01 / math.sqrt(weight.shape[1])), bias * 0.01)
            styles = F.leaky_relu(styles, SLOPE) * GAIN
            number += 1
        if self.truncation == 1.0 or not self.conventions.truncation:
            return styles
        average = self.named["latent_avg"]
        return average + self.truncation * (styles - average)

    def synthesis(self, styles: Tensor) -> Tensor:
        """w [n, style_dim] -> images [n, 3, image_size, image_size]."""
        first = self.architecture.layers["layer2"].name
        reached = self._enter(first, self._constant(len(styles)), Carried(None, styles))
        return self.rest(first, self.value(first, reached), reached.carried)

    def images(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.mapping(latents))

    def prefix(self, layer: str, latents: Tensor) -> LayerInput:
        first = self.architecture.layers["layer2"].name
        reached = self._enter(
            first, self._constant(len(latents)), Carried(None, self.mapping(latents))
        )
        return (
            reached
            if layer == first
            else self.onward(first, self.value(first, reached), reached.carried, layer)
        )

    def keys(self, layer: str) -> Callable[[Tensor], Tensor]:
        names = list(self.architecture.layers)
        functions = {
            name: self.function(name).weighted(self.weight(name))
            for name in names[: names.index(layer)]
        }

        def key_of(latents: Tensor) -> Tensor:
            styles = self.mapping(latents)
            features = self._constant(len(latents)).clone()
            for name, function in functions.items():
                style = self._key_style(name, styles)
                noise = self._noise(name, len(features)).to(features)
                features = function(
                    features.mul_(style[:, :, None, None]), {"style": style, "noise": noise}
                )
            return features.mul_(self._key_style(layer, styles)[:, :, None, None])

        return key_of

    def most_tiles(self, layer: str) -> int:
        return most_tiles(self.layer(layer))

    def key_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        if tiles == 1:
            return super().key_tiles(layer, tiles)
        layers = split_layers(list(self.architecture.layers.values()), self.layer(layer), tiles)
        start = self.keys(layers[0].name)
        functions = {
            each.name: self.function(each.name).weighted(self.weight(each.name), haloed=True)
            for each in layers[:-1]
        }

        def tiles_of(latents: Tensor) -> Iterator[Tensor]:
            mapped = self.mapping(latents)
            styles = {each.name: self._key_style(each.name, mapped) for each in layers}
            noises = {name: self._noise(name, len(latents)).to(latents) for name in functions}

            def advance(before: Layer, after: Layer, key: Tensor, first: int, last: int) -> Tensor:
                noise = noises[before.name][:, :, first * before.scale : last * before.scale]
                value = functions[before.name](key, {"style": styles[before.name], "noise": noise})
                return value.mul_(styles[after.name][:, :, None, None])

            return key_tiles(start(latents), layers, tiles, advance)

        return tiles_of

    def onward(self, start: str, output: Tensor, carried: Carried, layer: str) -> LayerInput:
        names = list(self.architecture.layers)
        carried = self._paint(start, output, carried)
        for name in names[names.index(start) + 1 : names.index(layer)]:
            output = self.value(name, self._enter(name, output, carried))
            carried = self._paint(name, output, carried)
        return self._enter(layer, output, carried)

    def pack(self, carried: Carried) -> dict[str, Tensor]:
        return {"w": carried.styles}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Carried:
        return Carried(None, tensors["w"])

    def rest(self, layer: str, value: Tensor, carried: Carried) -> Tensor:
        names = list(self.architecture.layers)
        carried = self._paint(layer, value, carried)
        for name in names[names.index(layer) + 1 :]:
            value = self.value(name, self._enter(name, value, carried))
            carried = self._paint(name, value, carried)
        assert carried.image is not None
        return carried.image

    def function(self, layer: str) -> StyledConvolution:
        block = self._block(layer)
        return StyledConvolution(
            self.named[f"{block}.noise.weight"],
            self.named[f"{block}.activate.bias"],
            self._resampling_kernel(f"{block}.conv.blur.kernel")
            if self._upsamples(layer)
            else None,
            self.clamp,
        )

    def crop(
        self, layer: str, reached: LayerInput, region: Box
    ) -> tuple[Tensor, dict[str, Tensor]]:
        shape = self.layer(layer)
        if self.conventions.halo:
            # Outside of the map lie the zeros that the convolution pads with.
            key = F.pad(reached.key, (1, 1, 1, 1))[
                :, :, region.top : region.bottom + 2, region.left : region.right + 2
            ]
            values = region.scaled(shape.scale)
            noise = reached.arguments["noise"][:, :, values.rows(), values.columns()]
        else:
            key = F.pad(reached.key[:, :, region.rows(), region.columns()], (1, 1, 1, 1))
            values = region.scaled(shape.scale)
            height, width = values.bottom - values.top, values.right - values.left
            noise = positional_noise(len(key), height, width).to(key)
        return key, {"style": reached.arguments["style"], "noise": noise}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        names = list(self.architecture.layers)
        before = names[: names.index(layer)]
        prefixes = ["style.", "mapping.", "input.", f"{self._block(layer)}.conv.modulation."]
        prefixes += [f"{self._block(name)}." for name in before]
        prefixes += [f"noises.noise_{_number(name) - 2}" for name in before]
        prefixes += ["latent_avg"] if self.truncation != 1.0 else []
        tensors = {
            name: tensor for name, tensor in self.named.items() if name.startswith(tuple(prefixes))
        }
        return tensors | ({CLAMP: self.weights[CLAMP]} if self.clamp is not None else {})

    def trainable(self) -> list[str]:
        fixed = ("noises.", "latent_avg", "mapping.w_avg", CLAMP)
        buffers = (".kernel", ".resample_filter", ".noise_const")
        return [
            name
            for name in self.weights
            if not name.startswith(fixed) and not name.endswith(buffers)
        ]

    def with_weights(self, weights: Mapping[str, Tensor]) -> StyleGAN2:
        return StyleGAN2(weights, self.truncation, self.conventions, self.class_label)

    def settings(self) -> dict[str, Any]:
        noise = "positional" if self.conventions.positional_noise else "buffers"
        settings = {
            "family": self.architecture.family,
            "truncation": self.truncation,
            "noise": noise,
        }
        return settings | ({} if self.class_label is None else {"class_label": self.class_label})

    def weight(self, layer: str) -> Tensor:
        return self.named[f"{self._block(layer)}.conv.weight"]

    def _enter(self, layer: str, features: Tensor, carried: Carried) -> LayerInput:
        """The modulated input of a styled convolution, its noise, and what passes it by."""
        style = self._key_style(layer, carried.styles)
        noise = self._noise(layer, len(features)).to(features)
        return LayerInput(
            features * style[:, :, None, None], {"style": style, "noise": noise}, carried
        )

    def _paint(self, layer: str, value: Tensor, carried: Carried) -> Carried:
        """Add what to-RGB draws from `value` to the image, behind the layers that have one (the
        even ones).
        """
        if self._upsamples(layer):
            return carried
        number = _number(layer)
        name = "to_rgb1" if number == 2 else f"to_rgbs.{number // 2 - 2}"
        style = self._style(f"{name}.conv", carried.styles)
        weight = self.named[f"{name}.conv.weight"][0]
        kernel = weight / math.sqrt(weight.shape[1])
        image = F.conv2d(value * style[:, :, None, None], kernel) + self.named[f"{name}.bias"]
        image = image if self.clamp is None else image.clamp(-self.clamp, self.clamp)
        if carried.image is not None:
            image = image + upsampled(
                carried.image, self._resampling_kernel(f"{name}.upsample.kernel")
            )
        return Carried(image, carried.styles)

    def _key_style(self, layer: str, styles: Tensor) -> Tensor:
        """What the channels of a layer's key are multiplied by, [n, in_channels]."""
        return self._style(f"{self._block(layer)}.conv", styles)

    def _style(self, convolution: str, styles: Tensor) -> Tensor:
        weight = self.named[f"{convolution}.modulation.weight"]
        return F.linear(
            styles,
            weight / math.sqrt(weight.shape[1]),
            self.named[f"{convolution}.modulation.bias"],
        )

    def _noise(self, layer: str, batch: int) -> Tensor:
        """The noise map of a layer: the checkpoint's buffer, seeded where it has none; never drawn
        anew.
        """
        index, size = _number(layer) - 2, self.layer(layer).value_size
        if self.conventions.positional_noise:
            return positional_noise(batch, size, size)
        if f"noises.noise_{index}" in self.named:
            return self.named[f"noises.noise_{index}"]
        drawn = np.random.RandomState(index).standard_normal((1, 1, size, size)).astype(np.float32)
        return torch.from_numpy(drawn)

    def _constant(self, batch: int) -> Tensor:
        constant = self.named["input.input"]
        return constant.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def _resampling_kernel(self, name: str) -> Tensor:
        if name in self.named:
            return self.named[name]
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).to(self.named["input.input"])
        return torch.outer(taps, taps) / 16

    def _upsamples(self, layer: str) -> bool:
        return upsamples(_number(layer))

    def _block(self, layer: str) -> str:
        number = _number(layer)
        return "conv1" if number == 2 else f"convs.{number - 3}"


class _WeightedSquares(torch.autograd.Function):
    """sum_i s[n, i] w[o, i]^2 -> [n, o], without keeping or revisiting what a chain of operations
    would.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor, squares: Tensor) -> Tensor:
        """[out, in * taps] and [n, in * taps] -> [n, out]."""
        context.save_for_backward(rows, squares)
        return squares @ rows.square().T

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """[n, out] -> [out, in * taps]."""
        rows, squares = context.saved_tensors
        return (2 * gradients[0].T @ squares).mul_(rows), None

    @staticmethod
    def of(rows: Tensor, squares: Tensor) -> Tensor:
        """The function itself, typed."""
        energy: Tensor = _WeightedSquares.apply(rows, squares)  # type: ignore[no-untyped-call]
        return energy


def _scale(kernel: Tensor) -> float:
    """What a kernel [out, in, kh, kw] is multiplied by, so that its training starts from a normal
    distribution.
    """
    return 1 / math.sqrt(kernel[0].numel())


def filtered(features: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Each channel of `features` [n, c, h, w] convolved with one `kernel` [4, 4]."""
    channels = features.shape[1]
    weight = kernel.flip(0, 1).to(features).expand(channels, 1, -1, -1)
    return F.conv2d(features, weight, padding=padding, groups=channels)


def upsampled(image: Tensor, kernel: Tensor) -> Tensor:
    """`image` [n, c, h, w] at twice the resolution: zeros between the samples, then `kernel` [4,
    4].
    """
    channels = image.shape[1]
    weight = kernel.to(image).expand(channels, 1, -1, -1)
    # A transposed convolution inserts the zeros by itself; cropping one ring puts the samples where
    # the padding (2, 1) of the original puts them.
    return F.conv_transpose2d(image, weight, stride=2, padding=1, groups=channels)


def _canonical(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by rosinality's names and in its shapes; those that are NVIDIA's are looked at
    anew, not copied.
    """
    if not is_nvidia(weights):
        return dict(weights)
    infos = {key: TensorInfo("F32", tuple(tensor.shape)) for key, tensor in weights.items()}
    named = {}
    for canonical in [*expected(infos), "latent_avg"]:
        tensor = weights.get(nvidia_name(canonical))
        if tensor is not None:
            tensor = tensor.reshape(canonical_shape(canonical, tuple(tensor.shape)))
            # NVIDIA scales when it resamples, rosinality scales the kernel beforehand.
            named[canonical] = 4 * tensor if canonical.endswith(".kernel") else tensor
        elif canonical.endswith(".noise.weight"):
            named[canonical] = weights["synthesis.b4.const"].new_zeros(1)
    return named


def _normalised(latents: Tensor) -> Tensor:
    """Each row of `latents` [n, size] divided by the root of its mean square."""
    return latents * torch.rsqrt(latents.square().mean(1, keepdim=True) + 1e-8)


def _number(layer: str) -> int:
    return int(layer.removeprefix("layer"))
