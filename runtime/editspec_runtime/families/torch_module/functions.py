"""The function of a chain of modules, from first key to last value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from editspec_runtime.core.model import LayerFunction
from editspec_runtime.families.torch_module.activations import BatchNorm
from editspec_runtime.families.torch_module.recording import Step
from editspec_runtime.maths.channelwise import ChannelwiseFunction, unit_kernels

REGION = "region"
"""The argument for the part of the value map that counts, [n, 4]: top, left, bottom, right."""

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
    BatchNorm,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
"""The modules that change each number by itself in eval mode, which is the only one here.

The ones behind the rectifiers change nothing in it.
"""


@dataclass(frozen=True)
class Form:
    """The form in which a module takes or gives features.

    Attributes
    ----------
    axes
        The number of axes, from 2 to 4.
    last
        Whether the channels come last.
    """

    axes: int
    last: bool

    def map(self, features: Tensor) -> Tensor:
        """The features as a map [n, c, h, w]."""
        if self.last:
            features = features.movedim(-1, 1)
        if self.axes == 4:
            return features
        return features.reshape(*features.shape[:2], 1, -1)

    def features(self, map_: Tensor) -> Tensor:
        """A map [n, c, h, w] as the module's features."""
        if self.axes == 3:
            map_ = map_.flatten(2)
        elif self.axes < 3:
            map_ = map_.flatten(1)
        return map_.movedim(1, -1) if self.last else map_


@dataclass(frozen=True)
class LayerPoint:
    """One editable layer of a network.

    Attributes
    ----------
    chain
        The steps from the edited module to the value.
    weight
        The edited parameter as the first module calls it: ``weight``, or that which a
        normalisation computes the weight from.
    key, value
        The forms of both maps.
    """

    chain: tuple[Step, ...]
    key: Form
    value: Form
    weight: str = "weight"


@dataclass(frozen=True)
class ModuleFunction(LayerFunction):
    """f(k; W) of a chain of modules, the first of which has the weight W.

    The key is always the whole map, and the argument ``region`` says which part of the value map
    counts: nothing tells how much of its surroundings a foreign module needs.
    """

    modules: tuple[nn.Module, ...]
    weights: tuple[dict[str, Tensor], ...]
    layer: LayerPoint
    scale: int

    def __call__(self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        stored = stored_weight(self.modules[0], weight) if weight.ndim == 5 else weight
        features = self.layer.key.features(key)
        own = ({**self.weights[0], self.layer.weight: stored}, *self.weights[1:])
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
        response = response.flatten(2)
        offset = torch.zeros_like(response[:1])
        bias = self.weights[0].get("bias")
        if bias is not None:
            offset = offset + bias.to(key)[:, None]
        multiplier, shift = pointwise.multiplier.to(key), pointwise.shift.to(key)
        offset = multiplier[:, None] * offset + shift[:, None]
        return ChannelwiseFunction(
            response,
            design.flatten(2).mT,
            offset,
            multiplier=multiplier[None],
            slope=pointwise.slope,
        )

    def _pointwise(self) -> Pointwise | None:
        """The function of each number behind the first module; None where it is not known."""
        module = self.modules[0]
        # A layer of torch's own adds nothing but a bias; a class made from it may do anything else.
        known = any(type(module).forward is kind.forward for kind in AXES)
        # A normalisation of the weight ties all numbers of the weight together.
        known &= self.layer.weight == "weight"
        if not known or getattr(module, "padding_mode", "zeros") != "zeros":
            return None
        channels = kernel_of(module, self.weights[0]["weight"]).shape[1]
        return Pointwise.of(
            self.modules[1:], self.weights[1:], channels, channels_last=self.layer.value.last
        )

    def _region(self, value: Tensor, arguments: Mapping[str, Tensor]) -> Tensor:
        """The part of a value map [n, c, h, w] that counts."""
        crops = []
        for each, region in zip(value, arguments[REGION], strict=True):
            top, left, bottom, right = (int(number) * self.scale for number in region)
            crops.append(each[:, top:bottom, left:right])
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
            # On maps of a single row; a padding may be a word, such as ``same``.
            padding = module.padding
            if not isinstance(padding, str):
                padding = (0, *padding)
            value: Tensor = F.conv2d(
                key, kernel, None, (1, *module.stride), padding, (1, *module.dilation)
            )
            return value
        return F.conv2d(key, kernel)


@dataclass(frozen=True)
class Pointwise:
    """The function of each number that a chain of modules computes.

    leaky_relu(multiplier * x + shift, slope).

    Attributes
    ----------
    multiplier, shift
        By channel, [c] float64.
    slope
        The factor below zero; 1 without a rectifier.
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
        """The function of these modules in eval mode; None where it has no such form."""
        found = Pointwise(torch.ones(channels).double(), torch.zeros(channels).double())
        for module, own in zip(modules, weights, strict=True):
            # Only torch's own classes are known: a class made from them may do anything.
            if type(module) not in POINTWISE:
                return None
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                # Behind a rectifier, or by the statistics of a batch, it has no such form.
                if found.slope != 1.0 or "running_var" not in own or channels_last:
                    return None
                exact = {name: tensor.cpu().double() for name, tensor in own.items()}
                found = found.add_normalization(exact, module.eps)
            elif isinstance(module, nn.ReLU | nn.LeakyReLU):
                slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
                # Two rectifiers are one only where the first keeps the sign. NaN is refused, too.
                if not slope >= 0:
                    return None
                found = replace(found, slope=found.slope * slope)
        return found

    def add_normalization(self, own: Mapping[str, Tensor], eps: float) -> Pointwise:
        """Add a batch normalization behind this function, by its running statistics.

        `own` are the tensors of the normalization by name, float64.
        """
        scale = (own["running_var"] + eps).rsqrt()
        if "weight" in own:
            scale = scale * own["weight"]
        shift = (self.shift - own["running_mean"]) * scale
        if "bias" in own:
            shift = shift + own["bias"]
        return Pointwise(self.multiplier * scale, shift)


STORED = (
    "weight",
    "weight_orig",
    "parametrizations.weight.original",
    "parametrizations.weight.original1",
    "weight_v",
)
"""Where torch stores what the weight of a module is, or is computed from, in this order.

As it is; by the older hooks of spectral normalisation and pruning; by one parametrisation; by
weight normalisation, as a parametrisation and by the older hook.
"""


def stored_name(module: nn.Module) -> str | None:
    """The name in a module of the parameter that its weight is computed from; None without one.

    The parameter has the shape of the weight.
    """
    own = dict(module.named_parameters())
    for name in STORED:
        if name in own and own[name].shape == module.weight.shape:
            return name
    return None


def kernel_of(module: nn.Module, weight: Tensor) -> Tensor:
    """A module's weight as [1, out, in, kh, kw]."""
    if isinstance(module, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return weight.reshape(1, *weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])


def stored_weight(module: nn.Module, kernel: Tensor) -> Tensor:
    """[1, out, in, kh, kw] as the module's weight."""
    weight = kernel[0]
    if isinstance(module, nn.ConvTranspose2d):
        return weight.transpose(0, 1)
    if isinstance(module, nn.Linear):
        return weight.flatten(1)
    if isinstance(module, nn.Conv1d):
        return weight[:, :, 0]
    return weight
