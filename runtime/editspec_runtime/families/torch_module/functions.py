"""The function of a chain of modules, from the key of the first to the value of the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from editspec_runtime.core.model import LayerFunction
from editspec_runtime.maths.channelwise import ChannelwiseFunction, unit_kernels

REGION = "region"
"""The argument that says which part of the value map counts, [n, 4]: top, left, bottom, right."""

AXES: dict[type[nn.Module], str] = {
    nn.Linear: "o i",
    nn.Conv1d: "o i x",
    nn.Conv2d: "o i y x",
    nn.ConvTranspose2d: "i o y x",
}
"""The axes of each kind of module's weight."""

POINTWISE = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
"""The modules that in eval mode, which is the only one here, change each number by itself: the last
row not at all.
"""


@dataclass(frozen=True)
class Form:
    """The form in which a module takes or gives features: how many axes, and whether the channels
    come last.
    """

    axes: int
    last: bool

    def map(self, features: Tensor) -> Tensor:
        """The features as a map [n, c, h, w]."""
        features = features.movedim(-1, 1) if self.last else features
        return features if self.axes == 4 else features.reshape(*features.shape[:2], 1, -1)

    def features(self, map_: Tensor) -> Tensor:
        """A map [n, c, h, w] as the module's features."""
        if self.axes < 4:
            map_ = map_.flatten(1) if self.axes == 2 else map_.flatten(2)
        return map_.movedim(1, -1) if self.last else map_


@dataclass(frozen=True)
class LayerPoint:
    """One editable layer of a network: the modules from the edited one to the value, and the forms
    of both maps.
    """

    chain: tuple[str, ...]
    key: Form
    value: Form


@dataclass(frozen=True)
class ModuleFunction(LayerFunction):
    """f(k; W) of a chain of modules, the first of which has the weight W.

    The key is always the whole map, and the argument ``region`` says which part of the value map
    counts: what a module needs around a crop is its own affair.
    """

    modules: tuple[nn.Module, ...]
    weights: tuple[dict[str, Tensor], ...]
    layer: LayerPoint
    scale: int

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        stored = stored_weight(self.modules[0], weight) if weight.ndim == 5 else weight
        features = self.layer.key.features(key)
        own = ({**self.weights[0], "weight": stored}, *self.weights[1:])
        for module, weights in zip(self.modules, own, strict=True):
            features = functional_call(module, weights, (features,))
        value = self.layer.value.map(features)
        return self._region(value, arguments) if REGION in arguments else value

    @property
    def is_channelwise(self) -> bool:
        return self._pointwise() is not None

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
    ) -> ChannelwiseFunction | None:
        pointwise = self._pointwise()
        if pointwise is None:
            return None
        response = self.convolution(key, weight[0])
        unit = unit_kernels((len(directions), *weight.shape[-2:]), key)
        design = self.convolution(torch.einsum("jihw,si->jshw", key, directions), unit)
        if REGION in arguments:
            response, design = self._region(response, arguments), self._region(design, arguments)
        response, offset = response.flatten(2), torch.zeros_like(response[:1].flatten(2))
        if (bias := self.weights[0].get("bias")) is not None:
            offset = offset + bias.to(key)[:, None]
        multiplier, shift = (tensor.to(key) for tensor in (pointwise.multiplier, pointwise.shift))
        offset = multiplier[:, None] * offset + shift[:, None]
        return ChannelwiseFunction(
            response,
            design.flatten(2).mT,
            offset,
            multiplier=multiplier[None],
            slope=pointwise.slope,
        )

    def _pointwise(self) -> Pointwise | None:
        """What the modules behind the first one do to each number; None where that is not known."""
        module = self.modules[0]
        # A layer of torch's own adds nothing but a bias; what a class made from it does instead is
        # not known.
        known = any(type(module).forward is kind.forward for kind in AXES)
        if not known or getattr(module, "padding_mode", "zeros") != "zeros":
            return None
        channels = kernel_of(module, self.weights[0]["weight"]).shape[1]
        return Pointwise.of(
            self.modules[1:], self.weights[1:], channels, channels_last=self.layer.value.last
        )

    def _region(self, value: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """The part of a value map [n, c, h, w] that counts."""
        boxes = [[int(number) * self.scale for number in region] for region in arguments[REGION]]
        crops = [
            each[:, top:bottom, left:right]
            for each, (top, left, bottom, right) in zip(value, boxes, strict=True)
        ]
        return torch.stack(crops)

    def convolution(self, key: Tensor, kernel: Tensor) -> Tensor:
        module = self.modules[0]
        if isinstance(module, nn.ConvTranspose2d):
            options: tuple[Any, ...] = (
                module.stride,
                module.padding,
                module.output_padding,
                1,
                module.dilation,
            )
            return F.conv_transpose2d(key, kernel.transpose(0, 1), None, *options)
        if isinstance(module, nn.Conv2d):
            return F.conv2d(key, kernel, None, module.stride, module.padding, module.dilation)
        if isinstance(module, nn.Conv1d):
            given = ((module.stride, 1), (module.padding, 0), (module.dilation, 1))
            options = tuple(o if isinstance(o, str) else (across, *o) for o, across in given)
            value: Tensor = F.conv2d(key, kernel, None, *options)
            return value
        return F.conv2d(key, kernel)


@dataclass(frozen=True)
class Pointwise:
    """What a chain of modules makes of every number by itself: leaky_relu(multiplier * x + shift,
    slope).

    Attributes
    ----------
    multiplier, shift
        By channel, [c] float64.
    slope
        What is multiplied below zero; 1 without a rectifier.
    """

    multiplier: Tensor
    shift: Tensor
    slope: float = 1.0

    @staticmethod
    def of(
        modules: Sequence[nn.Module],
        weights: Sequence[Mapping[str, Tensor]],
        channels: int,
        *,
        channels_last: bool,
    ) -> Pointwise | None:
        """What these modules with these weights do in eval mode; None where it has no such form.

        Only torch's own classes are known: what is made from them may do anything.
        """
        found = Pointwise(torch.ones(channels).double(), torch.zeros(channels).double())
        for module, own in zip(modules, weights, strict=True):
            if type(module) not in POINTWISE:
                return None
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                if found.slope != 1.0 or "running_var" not in own or channels_last:
                    return None
                found = found.normalized(
                    {name: tensor.cpu().double() for name, tensor in own.items()}, module.eps
                )
            elif isinstance(module, nn.ReLU | nn.LeakyReLU):
                slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
                if not slope >= 0:
                    return None
                found = replace(found, slope=found.slope * slope)
        return found

    def normalized(self, own: Mapping[str, Tensor], eps: float) -> Pointwise:
        """The same with a batch normalization behind it, by what it saw in training."""
        scale = (own["running_var"] + eps).rsqrt()
        scale = scale * own["weight"] if "weight" in own else scale
        shift = (self.shift - own["running_mean"]) * scale
        return Pointwise(self.multiplier * scale, shift + own["bias"] if "bias" in own else shift)


def kernel_of(module: nn.Module, weight: Tensor) -> Tensor:
    """A module's weight as [1, out, in, kh, kw]."""
    weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
    return weight.reshape(1, *weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])


def stored_weight(module: nn.Module, kernel: Tensor) -> Tensor:
    """[1, out, in, kh, kw] as the module's weight."""
    weight = kernel[0]
    if isinstance(module, nn.ConvTranspose2d):
        return weight.transpose(0, 1)
    return (
        weight.flatten(1)
        if isinstance(module, nn.Linear)
        else weight[:, :, 0]
        if isinstance(module, nn.Conv1d)
        else weight
    )
