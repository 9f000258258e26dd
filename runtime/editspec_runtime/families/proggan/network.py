"""The Progressive GAN generator in plain torch, around a checkpoint's tensors.

A layer is: pixel norm, doubling where the layer upsamples, convolution, scale and bias, leaky ReLU
(Karras et al. 2018). Key and value lie on both sides of the convolution, so that the layer's
function is linear from key to value, and closed forms hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from editspec_runtime.core.model import LayerFunction, Trace
from editspec_runtime.families.contents import tensor_infos
from editspec_runtime.families.proggan.architecture import read_architecture
from editspec_runtime.maths.channelwise import ChannelwiseFunction, Movable, unit_kernels
from editspec_runtime.modalities.image.architecture import ImageLayer
from editspec_runtime.modalities.image.compatibility import EDITSPEC, ImageCompatibility
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import HALO, Box, halo_of
from editspec_runtime.modalities.image.tiles import most_tiles, split_layers, tiles_of_rows

SLOPE = 0.2


@dataclass(frozen=True)
class Convolution(LayerFunction, Movable):
    """f(k; W) of one layer: the convolution alone.

    The only argument is `HALO`.
    """

    padding: int

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        kernel = weight.reshape(weight.shape[-4:])
        if HALO not in arguments:
            return F.conv2d(key, kernel, padding=self.padding)
        if self.padding == 0:  # of a 1x1 convolution, which needs no surroundings
            return F.conv2d(key[:, :, 1:-1, 1:-1], kernel)
        return F.conv2d(key, kernel, padding=self.padding - 1)

    def with_key_by_channels(
        self, key: Tensor, arguments: Mapping[str, Tensor]
    ) -> Callable[[Tensor, slice], Tensor]:
        return lambda weight, channels: self(key, weight, arguments)

    @property
    def is_channelwise(self) -> bool:
        return True

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(key, kernel, padding=self.padding)

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction:
        response = self(key, weight, arguments).flatten(2)
        unit = unit_kernels((len(directions), *weight.shape[-2:]), key)
        projected = torch.einsum("jihw,si->jshw", key, directions)
        design = self(projected, unit, arguments).flatten(2).mT
        return ChannelwiseFunction(response, design, torch.zeros_like(response[:1]))


class ProgressiveGAN(Generator):
    """A Progressive GAN generator.

    Parameters
    ----------
    weights
        The tensors by the authors' names: ``layerN.conv.weight``, ``layerN.wscale.b``,
        ``output_HxW.…``.
    truncation, class_label
        Ignored: there is no w, and there are no classes.
    compatibility
        Whether crops are haloed.

    Raises
    ------
    WeightsError
        The tensors are not a Progressive GAN generator.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        truncation: float = 1.0,
        compatibility: ImageCompatibility = EDITSPEC,
        class_label: int | None = None,
    ) -> None:
        self.weights = weights
        self.architecture = read_architecture(tensor_infos(weights))
        self.compatibility = compatibility

    def images(self, latents: Tensor) -> Tensor:
        first = "layer1"
        trace = self.trace(first, latents)
        return self.forward_from(first, self.layer_value(first, trace), trace)

    def trace(self, layer: str, latents: Tensor) -> Trace:
        first = "layer1"
        trace = self._enter(first, latents[:, :, None, None])
        if layer == first:
            return trace
        output = self.layer_output(first, self.layer_value(first, trace))
        return self.forward_between(first, output, trace, layer)

    def most_tiles(self, layer: str) -> int:
        return most_tiles(self.layer(layer))

    def map_tiles(self, layer: str, tiles: int) -> Callable[[Tensor], Iterator[Tensor]]:
        # The first layer makes a map of a single position, by a convolution of its own kind.
        if tiles == 1 or layer == "layer1":
            return super().map_tiles(layer, tiles)
        layers = split_layers(list(self.architecture.layers.values())[1:], self.layer(layer), tiles)
        start = self.key_maps(layers[0].name)

        def advance(
            before: ImageLayer, after: ImageLayer, key: Tensor, first: int, last: int
        ) -> Tensor:
            value = self.function(before.name)(key, self.weight(before.name), {HALO: halo_of(key)})
            return self._enter(after.name, self.layer_output(before.name, value)).key

        return lambda latents: tiles_of_rows(start(latents), layers, tiles, advance)

    def forward_between(self, start: str, output: Tensor, trace: Trace, layer: str) -> Trace:
        names = list(self.architecture.layers)
        for name in names[names.index(start) + 1 : names.index(layer)]:
            output = self.layer_output(name, self.layer_value(name, self._enter(name, output)))
        return self._enter(layer, output)

    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        return {}

    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        return Trace(key, {}, None)

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        return self.forward_from_output(layer, self.layer_output(layer, value), trace)

    def forward_from_output(self, layer: str, output: Tensor, trace: Trace) -> Tensor:
        last = list(self.architecture.layers)[-1]
        if layer != last:
            later = self.forward_between(layer, output, trace, last)
            output = self.layer_output(last, self.layer_value(last, later))
        return output.clamp(-1, 1)

    def layer_output(self, layer: str, value: Tensor) -> Tensor:
        # The equalised learning rate: weights are stored unscaled, and He's constant is applied to
        # the value here (Karras et al. 2018, section 4.1). The last layer has no activation, and so
        # no gain of sqrt(2).
        _, _, channels, taps, _ = self.weight(layer).shape
        last = layer.startswith("output")
        gain = 1 if last else math.sqrt(2)
        scale = gain / (taps * math.sqrt(channels))
        features = value * scale + self.weights[f"{layer}.wscale.b"][:, None, None]
        return features if last else F.leaky_relu(features, SLOPE)

    def function(self, layer: str) -> Convolution:
        if layer == "layer1":
            # The 4x4 kernel makes a 4x4 map of a single position.
            return Convolution(padding=3)
        if layer.startswith("output"):
            return Convolution(padding=0)
        return Convolution(padding=1)

    def crop(self, layer: str, trace: Trace, region: Box) -> tuple[Tensor, dict[str, Tensor]]:
        if self.compatibility.halo:
            key = F.pad(trace.key, (1, 1, 1, 1))
            key = key[:, :, region.top : region.bottom + 2, region.left : region.right + 2]
        else:
            key = F.pad(trace.key[:, :, region.rows(), region.columns()], (1, 1, 1, 1))
        return key, {HALO: halo_of(key)}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        names = list(self.architecture.layers)
        before = tuple(f"{name}." for name in names[: names.index(layer)])
        return {name: tensor for name, tensor in self.weights.items() if name.startswith(before)}

    def trainable(self) -> list[str]:
        return list(self.weights)

    def with_weights(self, weights: Mapping[str, Tensor]) -> ProgressiveGAN:
        return ProgressiveGAN(weights, compatibility=self.compatibility)

    def fingerprint(self) -> dict[str, Any]:
        return {"family": self.architecture.family}

    def weight(self, layer: str) -> Tensor:
        return self.weights[self.layer(layer).parameter][None]

    def _enter(self, layer: str, features: Tensor) -> Trace:
        """The trace of a layer: `features` normalised, and doubled to the key's size.

        Each position is divided by the root of its mean square over channels (pixel norm).
        """
        key = features * torch.rsqrt(features.square().mean(1, keepdim=True) + 1e-8)
        if self.layer(layer).key_size > key.shape[-1]:
            key = F.interpolate(key, scale_factor=2, mode="nearest")
        return Trace(key, {}, None)
