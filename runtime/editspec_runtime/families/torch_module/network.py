"""Any torch network as a generator.

Keys and values are read and replaced where modules begin and end.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from editspec_runtime.core.model import Trace
from editspec_runtime.errors import EditError, WeightsError
from editspec_runtime.families.shapes import list_problems, say_shape
from editspec_runtime.families.torch_module.functions import (
    AXES,
    REGION,
    Form,
    LayerPoint,
    ModuleFunction,
    kernel_of,
    stored_name,
    stored_weight,
)
from editspec_runtime.families.torch_module.handing_on import replace_outputs
from editspec_runtime.families.torch_module.recording import Call, PointError, Recording, record
from editspec_runtime.families.torch_module.signatures import require_inputs
from editspec_runtime.families.torch_module.source import Points, Source
from editspec_runtime.modalities.image.architecture import (
    ImageArchitecture,
    ImageLayer,
    image_layer,
)
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.modalities.image.maps import Box

MOST_PROBLEMS = 12
"""Tensors that a message names."""


class TorchModule(Generator):
    """A network of modules.

    Parameters
    ----------
    weights
        Its state dict.
    source
        The network without weights, and the declared layers.

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
        floating = (tensor for tensor in weights.values() if tensor.is_floating_point())
        example = next(floating, torch.zeros(()))
        # The module's own parameters are never used. Buffers outside of the state dict are, and
        # have to be on the device of the weights.
        self.module = source.module.eval().requires_grad_(False)
        _move_buffers(self.module, example)
        _require_fitting(self.module, weights)
        self.latent_shape = _latent_shape(source)
        self.inputs = _make_inputs(source, example)
        latents = torch.linspace(-1, 1, math.prod(self.latent_shape)).to(example)[None]
        recording = self._record(latents)
        self.order = [call.name for call in recording.calls if call.leaf and call.name]
        self.begun = recording.begun
        self.points: dict[str, LayerPoint] = {}
        # The modules that look like layers and cannot be edited, and why.
        self.refused: dict[str, PointError] = {}
        layers = self._find_layers(recording)
        size, latent_size = recording.output.shape[-1], math.prod(self.latent_shape)
        self.architecture = ImageArchitecture("torch", layers, size, latent_size)

    def _find_layers(self, recording: Recording) -> dict[str, ImageLayer]:
        """Find the layers that can be edited, and their points, in the order of the run.

        Raises `PointError` where a declared layer cannot be edited.
        """
        layers = {}
        for name, points in self._candidates(recording).items():
            try:
                module = self._edited_module(name, points)
                chain = recording.chain(name, points)
                if name not in self.source.points and not name.endswith(BARE):
                    chain += recording.find_followers(chain[0])
                layer = self._layer(name, chain, module)
            except PointError as error:
                # A module that nobody declared is simply not a layer.
                if name in self.source.points:
                    raise
                self.refused[name] = error
                continue
            self.points[name], layers[name] = layer
        for name in [name for name in layers if name.endswith(BARE)]:
            self._drop_alike(name, layers)
        names = sorted(layers, key=lambda name: self.order.index(self.points[name].chain[0].name))
        return {name: layers[name] for name in names}

    def _candidates(self, recording: Recording) -> dict[str, Points]:
        """The points of every module whose weight may be edited, and the declared ones, by name."""
        reached = {call.name for call in recording.calls}
        candidates: dict[str, Points] = {}
        for name, part in self.module.named_modules():
            if isinstance(part, tuple(AXES)) and name in reached:
                points = Points(name, name, f"{name}.weight")
                candidates |= {name: points, f"{name}{BARE}": points}
        return candidates | dict(self.source.points)

    def _drop_alike(self, name: str, layers: dict[str, ImageLayer]) -> None:
        """Drop the layer of a module alone where the module's own layer is no other."""
        whole = name.removesuffix(BARE)
        declared = name in self.source.points
        if declared or whole not in layers or self.points[whole] != self.points[name]:
            return
        message = f"nothing behind {whole} belongs to it, so that {whole} is its module alone"
        self.refused[name] = PointError(name, "value", message, f"write {whole}")
        del layers[name], self.points[name]

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

        def stop(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            # A copy, as the module may change its input in place.
            found.append(next(iter((*given, *named.values()))).clone())
            raise _Reached

        handle = self._edited(layer).register_forward_pre_hook(stop, with_kwargs=True)
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
        """Have runs of the network go on with `value` behind `layer`, within this."""
        point = self.points[layer]
        # A copy, as the modules behind may change it in place.
        values = iter(self._batches(point.value.features(value).clone()))
        with replace_outputs(self.module, point.chain, values):
            yield

    def function(self, layer: str) -> ModuleFunction:
        point = self.points[layer]
        modules, weights = [], []
        for step in point.chain:
            module = step.function or self.module.get_submodule(step.name)
            modules.append(module)
            weights.append({own: self.weights[f"{step.name}.{own}"] for own in module.state_dict()})
        return ModuleFunction(tuple(modules), tuple(weights), point, self.layer(layer).scale)

    def crop(self, layer: str, trace: Trace, region: Box) -> tuple[Tensor, dict[str, Tensor]]:
        edges = torch.tensor([[region.top, region.left, region.bottom, region.right]]).to(trace.key)
        return trace.key, {REGION: edges.expand(len(trace.key), -1)}

    def upstream(self, layer: str) -> dict[str, Tensor]:
        first = self.points[layer].chain[0].name
        before = set(self.begun[: self.begun.index(first)])
        # Modules with modules in them may use tensors of their own at any time: these count.
        behind = tuple(f"{name}." for name in self.order if name not in before)
        names = [name for name in self.weights if not name.startswith(behind)]
        return {name: self.weights[name] for name in names}

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
            "inputs": dict(self.source.inputs),
        }

    def weight(self, layer: str) -> Tensor:
        return kernel_of(self._edited(layer), self.weights[self.layer(layer).parameter])

    def to_checkpoint(self, layer: str, kernel: Tensor) -> Tensor:
        return stored_weight(self._edited(layer), kernel)

    def _edited(self, layer: str) -> nn.Module:
        """The module whose weight is that of a layer."""
        return self.module.get_submodule(self.points[layer].chain[0].name)

    def _batches(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The parts of a batch that the network takes: the whole, or items one by one."""
        return torch.split(batch, 1) if getattr(self.module, "single", False) else (batch,)

    def _run(self, latents: Tensor) -> Tensor:
        parts = []
        for part in self._batches(latents):
            given = part.reshape(-1, *self.latent_shape)
            named = {
                name: each.expand(len(part), *each.shape) for name, each in self.inputs.items()
            }
            parts.append(functional_call(self.module, dict(self.weights), (given,), named))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _record(self, latents: Tensor) -> Recording:
        """Record one run.

        Raises `WeightsError` where the network does not draw images or vectors, always the same,
        and `FieldError` where it takes other inputs.
        """
        require_inputs(self.module, self.source.inputs)
        try:
            recording = record(self.module, lambda: self._run(latents))
            with torch.no_grad():
                again = self._run(latents)
        except EditError:
            raise
        except Exception as error:  # the network's own code may raise anything
            # The user's own code failed, and its own words are what the user can act on.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"The network cannot take a latent of the shape {list(self.latent_shape)}: "
                f"{reason}",
                "Say the shape of one latent, without the batch, as model.latent_shape.",
            ) from error
        output = recording.output
        shape = list(output.shape[1:]) if isinstance(output, Tensor) else []
        image = len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]
        vector = 0 < len(shape) < 3 and math.prod(shape[:-1]) == 1
        if not image and not vector:
            found = f"{shape} for one latent" if shape else f"a {type(output).__name__}"
            raise WeightsError(
                f"The network gives {found}, expected square images [1 or 3, size, size] or "
                "vectors [size].",
                "Wrap it in a module that gives one of these.",
            )
        if not torch.equal(output, again):
            raise WeightsError(
                "The network gives another image each time for the same latent.",
                "Make it draw no random numbers of its own in eval mode: noise is to be a buffer.",
            )
        return recording

    def _layer(
        self, name: str, chain: Sequence[Call], module: nn.Module
    ) -> tuple[LayerPoint, ImageLayer]:
        """The points and the layer of a name. Raises `PointError` if it is not editable."""
        stored = stored_name(module)
        assert stored is not None
        parameter = f"{chain[0].name}.{stored}"
        key, value = chain[0].given, chain[-1].output
        last_axis = isinstance(module, nn.Linear)
        point = LayerPoint(
            tuple(call.step() for call in chain),
            Form(key.ndim, last_axis and key.ndim > 2),
            Form(value.ndim, last_axis and value.ndim == key.ndim > 2),
            stored,
        )
        key_height, key_size = point.key.map(key).shape[2:]
        height, size = point.value.map(value).shape[2:]
        flat = key_height == height == 1
        square = (key_height, height) == (key_size, size)
        if not flat and not square:
            message = (
                f"its maps are {key_height}x{key_size} and {height}x{size}, expected squares or "
                "rows"
            )
            raise PointError(name, "value", message, "edit another layer")
        if size % key_size:
            message = f"a map of {size} positions is not a multiple of its key's {key_size}"
            raise PointError(name, "value", message, "edit another layer")
        channels = kernel_of(module, self.weights[parameter]).shape[1:3]
        axes = next(axes for kind, axes in AXES.items() if isinstance(module, kind))
        linear = len(chain) == 1 and module.bias is None and stored == "weight"
        steps = tuple(step.name for step in point.chain)
        return point, image_layer(
            name,
            parameter,
            channels[1],
            channels[0],
            key_size,
            size,
            linear=linear,
            axes=axes,
            row=flat,
            steps=steps,
        )

    def _edited_module(self, name: str, points: Points) -> nn.Module:
        """The module whose weight is edited. Raises `PointError` where there is none."""
        edited, _, last = points.parameter.rpartition(".")
        modules = dict(self.module.named_modules())
        for field, known in (("key", points.key), ("value", points.value), ("parameter", edited)):
            if known not in modules:
                near = difflib.get_close_matches(known, modules, n=1)
                hint = f"did you mean {near[0]}?" if near else "print(network) shows its modules"
                raise PointError(name, field, f"the network has no module {known}", hint)
        module: nn.Module = modules[edited]
        if not isinstance(module, tuple(AXES)) or last != "weight":
            kinds = ", ".join(kind.__name__ for kind in AXES)
            message = f"{points.parameter} is not the weight of a layer"
            raise PointError(name, "parameter", message, f"the layers are {kinds}")
        stored = stored_name(module)
        if stored is None or f"{edited}.{stored}" not in self.weights:
            message = f"{points.parameter} is computed from parameters of other shapes"
            raise PointError(name, "parameter", message, REMOVE_PARAMETRISATION)
        if getattr(module, "groups", 1) != 1:
            message = f"{edited} works in groups of channels, and a key has one group"
            hint = (
                "edit the layer before or behind it: a 1x1 convolution behind one in groups "
                "changes the same features"
            )
            raise PointError(name, "parameter", message, hint)
        return module


REMOVE_PARAMETRISATION = (
    "let the factory call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') "
    "once the weights are loaded, and save the state dict of that network"
)
"""Advice for a layer whose weight is not one of the parameters, nor computed from one like it."""


BARE = "/weight"
"""The end of the name of a layer that ends where its own module does."""


class _Reached(Exception):
    """The end of a run that has reached a key."""


def _make_inputs(source: Source, example: Tensor) -> dict[str, Tensor]:
    """The inputs besides the latent, without the batch, where the weights are."""
    made = {}
    for name, given in source.inputs.items():
        tensor = torch.tensor(given, device=example.device)
        made[name] = tensor.to(example.dtype) if tensor.is_floating_point() else tensor
    return made


def _own_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module and all below it."""
    return [*module.parameters(), *module.buffers()]


def _move_buffers(module: nn.Module, like: Tensor) -> None:
    """Move buffers outside of the state dict to the device and dtype of `like`."""
    kept = set(module.state_dict())
    for name, buffer in list(module.named_buffers()):
        if name not in kept:
            owner, _, own = name.rpartition(".")
            placed = buffer.to(like.device)
            if placed.is_floating_point():
                placed = placed.to(like.dtype)
            module.get_submodule(owner)._buffers[own] = placed


def _latent_shape(source: Source) -> tuple[int, ...]:
    """The shape of one latent, without the batch.

    From the spec; else from the module's ``latent_shape``, else from its ``latent_size``.
    """
    size = getattr(source.module, "latent_size", None)
    usual = (size,) if isinstance(size, int) else None
    shape = source.latent_shape or getattr(source.module, "latent_shape", usual)
    if shape is None:
        raise WeightsError(
            "Nothing says what a latent of this network looks like.",
            "Write model.latent_shape, such as [100, 1, 1], or give the module an attribute "
            "latent_shape.",
        )
    return tuple(int(size) for size in shape)


def _require_fitting(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise a `WeightsError` that lists every tensor that does not fit the network."""
    missing, misshaped = [], []
    own = module.state_dict()
    for name, tensor in own.items():
        wanted = say_shape(tensor.shape)
        if name not in weights:
            missing.append(f"{name} is missing (expected {wanted})")
        elif weights[name].shape != tensor.shape:
            misshaped.append(f"{name} is {say_shape(weights[name].shape)}, expected {wanted}")
    left_over = [f"{name} is left over" for name in weights if name not in own]
    problems = [*missing, *left_over, *misshaped]
    if len(problems) > MOST_PROBLEMS:
        rest = f"… and {len(problems) - MOST_PROBLEMS} more"
        problems = [*problems[:MOST_PROBLEMS], rest]
    if problems:
        raise WeightsError(
            f"These weights are not those of the network:\n{list_problems(problems)}",
            "Give the state dict of the network that the module makes.",
        )


def _picture(output: Tensor) -> Tensor:
    """The network's output as images [n, 3, size, size].

    Gray images get three channels, and of a vector each number becomes a column.
    """
    if output.ndim == 4:
        return output.expand(-1, 3, -1, -1)
    rows = output.reshape(len(output), 1, 1, -1)
    return rows.expand(-1, 3, rows.shape[-1], -1)
