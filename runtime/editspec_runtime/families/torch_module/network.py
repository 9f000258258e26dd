"""Any torch network as a generator: keys and values are read and replaced where its modules begin
and end.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.torch_module.source import Points, Source
from editspec_runtime.families.torch_module.trace import PointError, Trace, watched
from editspec_runtime.modalities.image.generator import (
    Box,
    ChannelwiseFunction,
    Generator,
    LayerFunction,
    LayerInput,
    unit_kernels,
)

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
class _Form:
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
class _Layer:
    """One editable layer of a network: the modules from the edited one to the value, and the forms
    of both maps.
    """

    chain: tuple[str, ...]
    key: _Form
    value: _Form


@dataclass(frozen=True)
class ModuleFunction(LayerFunction):
    """f(k; W) of a chain of modules, the first of which has the weight W.

    The key is always the whole map, and the argument ``region`` says which part of the value map
    counts: what a module needs around a crop is its own affair.
    """

    modules: tuple[nn.Module, ...]
    weights: tuple[dict[str, Tensor], ...]
    layer: _Layer
    scale: int

    def __call__(
        self, key: Tensor, weight: Tensor, arguments: Mapping[str, Tensor], *, haloed: bool = False
    ) -> Tensor:
        stored = stored_weight(self.modules[0], weight) if weight.ndim == 5 else weight
        features = self.layer.key.features(key)
        own = ({**self.weights[0], "weight": stored}, *self.weights[1:])
        for module, weights in zip(self.modules, own, strict=True):
            features = functional_call(module, weights, (features,))
        value = self.layer.value.map(features)
        return self._region(value, arguments) if haloed else value

    @property
    def is_channelwise(self) -> bool:
        return self._pointwise() is not None

    def channelwise(
        self,
        key: Tensor,
        weight: Tensor,
        directions: Tensor,
        arguments: Mapping[str, Tensor],
        *,
        haloed: bool = False,
    ) -> ChannelwiseFunction | None:
        pointwise = self._pointwise()
        if pointwise is None:
            return None
        response = self.convolution(key, weight[0])
        unit = unit_kernels((len(directions), *weight.shape[-2:]), key)
        design = self.convolution(torch.einsum("jihw,si->jshw", key, directions), unit)
        if haloed:
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
        boxes = [[int(number) * self.scale for number in region] for region in arguments["region"]]
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


class ModuleGenerator(Generator):
    """A network of modules.

    Parameters
    ----------
    weights
        Its state dict.
    source
        The network without weights, and the layers that are declared.

    Raises
    ------
    WeightsError
        The state dict does not fit, or the network does not take latents and give images or
        vectors.
    PointError
        A declared layer cannot be edited.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: Source) -> None:
        self.weights = weights
        self.source = source
        example = next(
            (tensor for tensor in weights.values() if tensor.is_floating_point()), torch.zeros(())
        )
        # Its own tensors are never used; what is no part of its state dict has to be in the right
        # place, though.
        self.module = source.module.eval().requires_grad_(False)
        _bring(self.module, example)
        _require_fitting(self.module, weights)
        self.latent_shape = _latent_shape(source)
        latents = torch.linspace(-1, 1, math.prod(self.latent_shape)).to(example)[None]
        self.trace = self._watched(latents)
        self.points: dict[str, _Layer] = {}
        layers = {}
        for name, points in (_candidates(self.module, self.trace) | dict(source.points)).items():
            try:
                point, layers[name] = self._layer(name, points)
                self.points[name] = point
            except PointError:
                if name in source.points:
                    raise
        order = [call.name for call in self.trace.calls]
        layers = dict(
            sorted(layers.items(), key=lambda item: order.index(self.points[item[0]].chain[0]))
        )
        self.architecture = Architecture(
            "torch", layers, self.trace.output.shape[-1], math.prod(self.latent_shape)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ModuleGenerator, (self.weights, self.source)

    def images(self, latents: Tensor) -> Tensor:
        return _picture(self._run(latents))

    def prefix(self, layer: str, latents: Tensor) -> LayerInput:
        return self._reaching(layer, latents)

    def onward(self, start: str, output: Tensor, carried: Tensor, layer: str) -> LayerInput:
        with self._handing_on(start, output):
            return self._reaching(layer, carried)

    def pack(self, carried: Tensor) -> dict[str, Tensor]:
        return {"latents": carried}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["latents"]

    def _reaching(self, layer: str, latents: Tensor) -> LayerInput:
        """What reaches `layer`; nothing behind it is computed."""
        point = self.points[layer]
        found: list[Tensor] = []

        def reached(_: nn.Module, given: tuple[Any, ...]) -> None:
            found.append(given[0].clone())
            raise _Reached

        handle = self.module.get_submodule(point.chain[0]).register_forward_pre_hook(reached)
        try:
            for batch in self._batches(latents):
                with suppress(_Reached):
                    self._run(batch)
        finally:
            handle.remove()
        return LayerInput(point.key.map(torch.cat(found)), {}, latents)

    def rest(self, layer: str, value: Tensor, carried: Tensor) -> Tensor:
        with self._handing_on(layer, value):
            return _picture(self._run(carried))

    @contextmanager
    def _handing_on(self, layer: str, value: Tensor) -> Iterator[None]:
        """Within this, a run of the network goes on with `value` behind `layer`, whatever reached
        it.
        """
        point = self.points[layer]
        # A copy, as what follows may change it in place.
        given = iter(self._batches(point.value.features(value).clone()))
        handle = self.module.get_submodule(point.chain[-1]).register_forward_hook(
            lambda *_: next(given)
        )
        try:
            yield
        finally:
            handle.remove()

    def function(self, layer: str) -> ModuleFunction:
        point = self.points[layer]
        modules = [self.module.get_submodule(name) for name in point.chain]
        weights = [
            {own: self.weights[f"{name}.{own}"] for own in module.state_dict()}
            for name, module in zip(point.chain, modules, strict=True)
        ]
        return ModuleFunction(tuple(modules), tuple(weights), point, self.layer(layer).scale)

    def crop(
        self, layer: str, reached: LayerInput, region: Box
    ) -> tuple[Tensor, dict[str, Tensor]]:
        edges = torch.tensor([[region.top, region.left, region.bottom, region.right]]).to(
            reached.key
        )
        return reached.key, {"region": edges.expand(len(reached.key), -1)}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        first = self.points[layer].chain[0]
        before = set(self.trace.begun[: self.trace.begun.index(first)])
        behind = {call.name for call in self.trace.calls if call.leaf} - before
        return {
            name: tensor
            for name, tensor in self.weights.items()
            if name.rpartition(".")[0] not in behind
        }

    def trainable(self) -> list[str]:
        return [name for name, _ in self.module.named_parameters()]

    def with_weights(self, weights: Mapping[str, Tensor]) -> ModuleGenerator:
        return ModuleGenerator(weights, self.source)

    def settings(self) -> dict[str, Any]:
        return {
            "family": "torch",
            "code": self.source.code,
            "latent_shape": list(self.latent_shape),
        }

    def weight(self, layer: str) -> Tensor:
        edited = self.module.get_submodule(self.points[layer].chain[0])
        return kernel_of(edited, self.weights[self.layer(layer).parameter])

    def stored(self, layer: str, kernel: Tensor) -> Tensor:
        return stored_weight(self.module.get_submodule(self.points[layer].chain[0]), kernel)

    def _batches(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The parts that the network takes: the whole batch, or one by one where a graph knows no
        other.
        """
        return torch.split(batch, 1) if getattr(self.module, "single", False) else (batch,)

    def _run(self, latents: Tensor) -> Tensor:
        parts = [
            functional_call(
                self.module, dict(self.weights), (part.reshape(-1, *self.latent_shape),)
            )
            for part in self._batches(latents)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _watched(self, latents: Tensor) -> Trace:
        """The trace of one run. Raises `WeightsError` where the network is no generator that can be
        edited.
        """
        try:
            trace, again = (watched(self.module, lambda: self._run(latents)) for _ in range(2))
        except Exception as error:  # the network's own code may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"The network cannot take a latent of the shape {list(self.latent_shape)}: {reason}",
                "Say the shape of one latent, without the batch, as model.latent_shape.",
            ) from error
        output = trace.output
        shape = list(output.shape[1:]) if isinstance(output, Tensor) else []
        image = len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]
        if not image and not (shape and math.prod(shape[:-1]) == 1 and len(shape) < 3):
            found = f"{shape} for one latent" if shape else f"a {type(output).__name__}"
            raise WeightsError(
                f"The network gives {found}, expected square images [1 or 3, size, size] or vectors [size].",
                "Wrap it in a module that gives one of these.",
            )
        if not torch.equal(output, again.output):
            raise WeightsError(
                "The network gives another image each time for the same latent.",
                "Make it draw no random numbers of its own in eval mode: noise is to be a buffer.",
            )
        return trace

    def _layer(self, name: str, points: Points) -> tuple[_Layer, Layer]:
        """A layer and its layout. Raises `PointError` where it cannot be edited."""
        edited, _, last = points.parameter.rpartition(".")
        modules = dict(self.module.named_modules())
        for field, known in (("key", points.key), ("value", points.value), ("parameter", edited)):
            if known not in modules:
                near = difflib.get_close_matches(known, modules, n=1)
                raise PointError(
                    name,
                    field,
                    f"the network has no module {known}",
                    f"did you mean {near[0]}?" if near else "",
                )
        module: nn.Module = modules[edited]
        if not isinstance(module, tuple(AXES)) or last != "weight":
            kinds = ", ".join(kind.__name__ for kind in AXES)
            raise PointError(
                name,
                "parameter",
                f"{points.parameter} is not the weight of a layer",
                f"the layers are {kinds}",
            )
        if getattr(module, "groups", 1) != 1:
            raise PointError(
                name, "parameter", f"{edited} works in groups of channels, and a key has one group"
            )
        chain = self.trace.chain(name, points)
        calls = {call.name: call for call in self.trace.calls}
        key, value = calls[chain[0]].given, calls[chain[-1]].output
        last_axis = isinstance(module, nn.Linear)
        point = _Layer(
            chain,
            _Form(key.ndim, last_axis and key.ndim > 2),
            _Form(value.ndim, last_axis and value.ndim == key.ndim > 2),
        )
        (key_height, key_size), (height, size) = (
            point.key.map(key).shape[2:],
            point.value.map(value).shape[2:],
        )
        flat = key_height == height == 1
        if not (flat or (key_height, height) == (key_size, size)):
            raise PointError(
                name,
                "value",
                f"its maps are {key_height}x{key_size} and {height}x{size}, expected squares or rows",
            )
        if size % key_size:
            raise PointError(
                name,
                "value",
                f"a map of {size} positions is no multiple of its key's {key_size}",
                "edit another layer",
            )
        channels = kernel_of(module, self.weights[points.parameter]).shape[1:3]
        axes = next(axes for kind, axes in AXES.items() if isinstance(module, kind))
        linear = len(chain) == 1 and module.bias is None
        return point, Layer(
            name, points.parameter, channels[1], channels[0], key_size, size, linear, axes, flat
        )


class _Reached(Exception):
    """The key has been reached, and nothing behind it is to be computed."""


def _bring(module: nn.Module, like: Tensor) -> None:
    """Bring the buffers that are no part of the state dict to the place of `like`, and numbers to
    its precision.
    """
    kept = set(module.state_dict())
    for name, buffer in list(module.named_buffers()):
        if name not in kept:
            owner, _, own = name.rpartition(".")
            placed = buffer.to(like.device)
            module.get_submodule(owner)._buffers[own] = (
                placed.to(like.dtype) if placed.is_floating_point() else placed
            )


def _candidates(module: nn.Module, trace: Trace) -> dict[str, Points]:
    """Every module whose weight can be edited as a layer of its own, by its name."""
    reached = {call.name for call in trace.calls}
    return {
        name: Points(name, name, f"{name}.weight")
        for name, part in module.named_modules()
        if isinstance(part, tuple(AXES)) and name in reached
    }


def _latent_shape(source: Source) -> tuple[int, ...]:
    """The shape of one latent: as the spec says, or the module's ``latent_shape`` or
    ``latent_size``.
    """
    size = getattr(source.module, "latent_size", None)
    shape = source.latent_shape or getattr(
        source.module, "latent_shape", (size,) if isinstance(size, int) else None
    )
    if shape is None:
        raise WeightsError(
            "Nothing says what a latent of this network looks like.",
            "Write model.latent_shape, such as [100, 1, 1], or give the module an attribute latent_shape.",
        )
    return tuple(int(size) for size in shape)


def _require_fitting(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise a `WeightsError` that lists every tensor that is missing, left over or of another
    shape.
    """
    own = module.state_dict()
    problems = [
        f"{name} is missing (expected {_shape(tensor)})"
        for name, tensor in own.items()
        if name not in weights
    ]
    problems += [f"{name} is left over" for name in weights if name not in own]
    problems += [
        f"{name} is {_shape(weights[name])}, expected {_shape(tensor)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        rest = [f"… and {len(problems) - 12} more"] if len(problems) > 12 else []
        raise WeightsError(
            "These weights are not those of the network:\n"
            + "\n".join(f"  - {p}" for p in problems[:12] + rest),
            "Give the state dict of the network that the module makes.",
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _picture(output: Tensor) -> Tensor:
    """What the network gives as images [n, 3, size, size]; each number of a vector is a column."""
    if output.ndim == 4:
        return output.expand(-1, 3, -1, -1)
    rows = output.reshape(len(output), 1, 1, -1)
    return rows.expand(-1, 3, rows.shape[-1], -1)
