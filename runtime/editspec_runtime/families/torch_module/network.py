"""Any torch network as a generator: keys and values are read and replaced where its modules begin
and end.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from editspec_runtime.core.model import Trace
from editspec_runtime.errors import WeightsError
from editspec_runtime.families.torch_module.functions import (
    AXES,
    REGION,
    Form,
    LayerPoint,
    ModuleFunction,
    kernel_of,
    stored_weight,
)
from editspec_runtime.families.torch_module.recording import PointError, Recording, record
from editspec_runtime.families.torch_module.source import Points, Source
from editspec_runtime.modalities.image.architecture import (
    ImageArchitecture,
    ImageLayer,
    image_layer,
)
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box


class TorchModule(Generator):
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
        self.recording = self._record(latents)
        self.points: dict[str, LayerPoint] = {}
        layers = {}
        for name, points in (
            _candidates(self.module, self.recording) | dict(source.points)
        ).items():
            try:
                point, layers[name] = self._layer(name, points)
                self.points[name] = point
            except PointError:
                if name in source.points:
                    raise
        order = [call.name for call in self.recording.calls]
        layers = dict(
            sorted(layers.items(), key=lambda item: order.index(self.points[item[0]].chain[0]))
        )
        self.architecture = ImageArchitecture(
            "torch", layers, self.recording.output.shape[-1], math.prod(self.latent_shape)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchModule, (self.weights, self.source)

    def images(self, latents: Tensor) -> Tensor:
        return _picture(self._run(latents))

    def forward_between(self, start: str, output: Tensor, trace: Trace, layer: str) -> Trace:
        with self._hand_on(start, output):
            return self.trace(layer, trace.carried)

    def carried_tensors(self, trace: Trace) -> dict[str, Tensor]:
        return {"latents": trace.carried}

    def trace_from_tensors(self, key: Tensor, tensors: Mapping[str, Tensor]) -> Trace:
        return Trace(key, {}, tensors["latents"])

    def trace(self, layer: str, latents: Tensor) -> Trace:
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
        return Trace(point.key.map(torch.cat(found)), {}, latents)

    def forward_from(self, layer: str, value: Tensor, trace: Trace) -> Tensor:
        with self._hand_on(layer, value):
            return _picture(self._run(trace.carried))

    @contextmanager
    def _hand_on(self, layer: str, value: Tensor) -> Iterator[None]:
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

    def crop(self, layer: str, trace: Trace, region: Box) -> tuple[Tensor, dict[str, Tensor]]:
        edges = torch.tensor([[region.top, region.left, region.bottom, region.right]]).to(trace.key)
        return trace.key, {REGION: edges.expand(len(trace.key), -1)}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        first = self.points[layer].chain[0]
        before = set(self.recording.begun[: self.recording.begun.index(first)])
        behind = {call.name for call in self.recording.calls if call.leaf} - before
        return {
            name: tensor
            for name, tensor in self.weights.items()
            if name.rpartition(".")[0] not in behind
        }

    def trainable(self) -> list[str]:
        return [name for name, _ in self.module.named_parameters()]

    def with_weights(self, weights: Mapping[str, Tensor]) -> TorchModule:
        return TorchModule(weights, self.source)

    def separate(self) -> TorchModule:
        # Hooks in a module belong to one run at a time; its own tensors are never used.
        shared = {id(tensor): tensor for tensor in _own_tensors(self.source.module)}
        module = deepcopy(self.source.module, shared)
        return TorchModule(self.weights, replace(self.source, module=module))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "family": "torch",
            "code": self.source.code,
            "latent_shape": list(self.latent_shape),
        }

    def weight(self, layer: str) -> Tensor:
        edited = self.module.get_submodule(self.points[layer].chain[0])
        return kernel_of(edited, self.weights[self.layer(layer).parameter])

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
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

    def _record(self, latents: Tensor) -> Recording:
        """The record of one run. Raises `WeightsError` where the network is no generator that can be
        edited.
        """
        try:
            recording, again = (record(self.module, lambda: self._run(latents)) for _ in range(2))
        except Exception as error:  # the network's own code may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"The network cannot take a latent of the shape {list(self.latent_shape)}: {reason}",
                "Say the shape of one latent, without the batch, as model.latent_shape.",
            ) from error
        output = recording.output
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
        return recording

    def _layer(self, name: str, points: Points) -> tuple[LayerPoint, ImageLayer]:
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
        chain = self.recording.chain(name, points)
        calls = {call.name: call for call in self.recording.calls}
        key, value = calls[chain[0]].given, calls[chain[-1]].output
        last_axis = isinstance(module, nn.Linear)
        point = LayerPoint(
            chain,
            Form(key.ndim, last_axis and key.ndim > 2),
            Form(value.ndim, last_axis and value.ndim == key.ndim > 2),
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
        return point, image_layer(
            name,
            points.parameter,
            channels[1],
            channels[0],
            key_size,
            size,
            linear=linear,
            axes=axes,
            row=flat,
        )


class _Reached(Exception):
    """The key has been reached, and nothing behind it is to be computed."""


def _own_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module and all below it."""
    return [*module.parameters(), *module.buffers()]


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


def _candidates(module: nn.Module, recording: Recording) -> dict[str, Points]:
    """Every module whose weight can be edited as a layer of its own, by its name."""
    reached = {call.name for call in recording.calls}
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
