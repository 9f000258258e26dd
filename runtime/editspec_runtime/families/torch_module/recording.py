"""Record one run of a network: its calls of modules, in order, with input and output."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from editspec_runtime.core.fields import FieldError
from editspec_runtime.families.torch_module.source import Points


class PointError(FieldError):
    """A layer that a spec declares and that cannot be edited so.

    Attributes
    ----------
    layer, field
        The layer's name, and which of its points is wrong: ``key``, ``value`` or ``parameter``.
    """

    def __init__(self, layer: str, field: str, message: str, hint: str = "") -> None:
        super().__init__(("layers", layer, field), message, hint)
        self.layer = layer
        self.field = field


@dataclass(frozen=True)
class Call:
    """One call of a module: its name, its first argument and its output, and whether it calls no
    others.
    """

    name: str
    given: Any
    output: Any
    leaf: bool


@dataclass
class Recording:
    """The calls of one run, in the order in which they ended, and the output of the network."""

    calls: list[Call] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    output: Any = None

    def the_call(self, layer: str, point: str, name: str) -> int:
        """The place in the run of the only call of a module. Raises `PointError` where there is
        none, or another.
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
        """The modules from the edited one to the value, each of which takes what the one before it
        gave.

        Raises `PointError` where they are no such chain, or the edited module does not take the
        key.
        """
        edited = points.parameter.rpartition(".")[0]
        key, first, last = (
            self.the_call(layer, point, name)
            for point, name in (("key", points.key), ("parameter", edited), ("value", points.value))
        )
        if last < first:
            message = f"{points.value} lies before {edited}: its output does not depend on {points.parameter}"
            raise PointError(layer, "value", message, f"name {edited}, or a module behind it")
        if self.calls[key].given is not self.calls[first].given:
            message = f"{edited}, whose weight is edited, does not take what {points.key} takes"
            raise PointError(layer, "key", message, f"name {edited}")
        current, names = self.calls[first].output, [edited]
        for call in self.calls[first + 1 : last + 1]:
            if call.leaf and call.given is current:
                names.append(call.name)
                current = call.output
        if current is not self.calls[last].output:
            message = f"between {edited} and {points.value} more is computed than modules, one after the other"
            raise PointError(layer, "value", message, f"name a module up to {names[-1]}")
        return tuple(names)


def record(module: nn.Module, run: Callable[[], Any]) -> Recording:
    """Record one run of `module`."""
    recording = Recording()
    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if name:
                leaf = next(part.children(), None) is None
                for handle in (
                    part.register_forward_pre_hook(
                        lambda _, __, name=name: recording.begun.append(name)
                    ),
                    part.register_forward_hook(
                        lambda _, given, output, name=name, leaf=leaf: recording.calls.append(
                            Call(name, given[0] if given else None, output, leaf)
                        )
                    ),
                ):
                    hooks.callback(handle.remove)
        recording.output = run()
    return recording
