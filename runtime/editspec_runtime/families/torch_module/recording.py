"""The record of one run of a network: its calls of modules with input and output."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from editspec_runtime.codes import Code
from editspec_runtime.core.fields import FieldError
from editspec_runtime.families.torch_module.source import Points


class PointError(FieldError):
    """A layer that a spec declares and that cannot be edited so.

    Attributes
    ----------
    layer, field
        The layer's name, and the point that is wrong: ``key``, ``value`` or ``parameter``.
    """

    code = Code.MODULE_UNFIT

    def __init__(self, layer: str, field: str, message: str, hint: str = "") -> None:
        super().__init__(("layers", layer, field), message, hint)
        self.layer = layer
        self.field = field


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes
    ----------
    name
        The name of the module.
    given
        Its first argument.
    output
        Its output.
    leaf
        Whether the module has no modules in it.
    """

    name: str
    given: Any
    output: Any
    leaf: bool


@dataclass
class Recording:
    """The calls of modules in one run of a network.

    Attributes
    ----------
    calls
        The calls in the order in which they ended.
    begun
        The names of the modules in the order in which their calls began.
    output
        The output of the network.
    """

    calls: list[Call] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    output: Any = None

    def find_call(self, layer: str, point: str, name: str) -> int:
        """Find the place in the run of the only call of a module.

        Raises `PointError` where there is no call, or more than one.
        """
        places = [place for place, call in enumerate(self.calls) if call.name == name]
        if len(places) == 1:
            return places[0]
        if places:
            message = (
                f"{name} is reached {len(places)} times for one image, and an edit needs one place"
            )
            raise PointError(layer, point, message, "name a module that is called once")
        message = f"{name} is never reached when the network draws an image"
        raise PointError(layer, point, message, "name a module that takes part in it")

    def chain(self, layer: str, points: Points) -> tuple[str, ...]:
        """The names of the modules from the edited one to the value.

        Each takes the output of the one before. Raises `PointError` where modules do not form such
        a chain, or the edited module does not take the key.
        """
        edited = points.parameter.rpartition(".")[0]
        key = self.find_call(layer, "key", points.key)
        first = self.find_call(layer, "parameter", edited)
        last = self.find_call(layer, "value", points.value)
        if last < first:
            message = (
                f"{points.value} lies before {edited}: its output does not depend on "
                f"{points.parameter}"
            )
            raise PointError(layer, "value", message, f"name {edited}, or a module behind it")
        if self.calls[key].given is not self.calls[first].given:
            message = f"{edited}, whose weight is edited, does not take what {points.key} takes"
            raise PointError(layer, "key", message, f"name {edited}")
        # Tensors are followed by identity: any operation between two modules makes a new one.
        current, names = self.calls[first].output, [edited]
        for call in self.calls[first + 1 : last + 1]:
            if call.leaf and call.given is current:
                names.append(call.name)
                current = call.output
        if current is not self.calls[last].output:
            message = (
                f"between {edited} and {points.value} more is computed than modules, one after "
                "the other"
            )
            raise PointError(layer, "value", message, f"name a module up to {names[-1]}")
        return tuple(names)


def record(module: nn.Module, run: Callable[[], Any]) -> Recording:
    """Record one run of `module`."""
    recording = Recording()
    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if name:
                for handle in _add_hooks(part, name, recording):
                    hooks.callback(handle.remove)
        recording.output = run()
    return recording


def _add_hooks(module: nn.Module, name: str, recording: Recording) -> list[RemovableHandle]:
    """Record the calls of one module until the handles are removed."""
    leaf = next(module.children(), None) is None

    def begin(_: nn.Module, given: tuple[Any, ...]) -> None:
        recording.begun.append(name)

    def end(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        first = given[0] if given else None
        recording.calls.append(Call(name, first, output, leaf))

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
