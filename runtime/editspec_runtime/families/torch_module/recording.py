"""The record of one run of a network: its calls of modules and functions, and what they hand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from editspec_runtime.codes import Code
from editspec_runtime.core.fields import FieldError
from editspec_runtime.families.torch_module.activations import (
    NORMALISATION,
    PASSES,
    RECTIFIER,
    find_rectifier,
    kind_of,
)
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
class Step:
    """A step from key to value: a module of the network, or a function that is a rectifier.

    Attributes
    ----------
    name
        The name of the module; of a function, that of the rectifier, such as ``LeakyReLU()``.
    function
        The rectifier that does what the function does; None for a module of the network.
    """

    name: str
    function: nn.Module | None = None


@dataclass(frozen=True)
class Call:
    """A call of a module or of a function of torch.

    Attributes
    ----------
    name
        The name of the module; empty for a function.
    given
        The first argument.
    output
        The output.
    takes
        All tensors among the arguments. Empty for a module with modules in it, whose own modules
        and functions take them.
    module
        The module, or the rectifier that does what the function does; None for other functions.
    leaf
        Whether no other calls stand for the call: a function, or a module without modules in it.
    """

    name: str
    given: Any
    output: Any
    takes: tuple[Tensor, ...]
    module: nn.Module | None
    leaf: bool

    def step(self) -> Step:
        """The call as a step."""
        if self.name or self.module is None:
            return Step(self.name)
        return Step(f"{type(self.module).__name__}()", self.module)


@dataclass
class Recording:
    """The calls of modules and functions in one run of a network.

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

    def chain(self, layer: str, points: Points) -> list[Call]:
        """The calls from the edited module to the value.

        Each takes the output of the one before. Raises `PointError` where calls do not form such a
        chain, or the edited module does not take the key.
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
        found = [self.calls[first]]
        for call in self.calls[first + 1 : last + 1]:
            known = call.leaf and call.module is not None
            if known and call.given is found[-1].output:
                found.append(call)
        if found[-1].output is not self.calls[last].output:
            names = [call.name for call in found if call.name]
            message = (
                f"between {edited} and {points.value} more is computed than modules, one after "
                "the other"
            )
            raise PointError(layer, "value", message, f"name a module up to {names[-1]}")
        return found

    def find_followers(self, edited: Call) -> list[Call]:
        """Find what belongs to an edited module: a normalisation and a rectifier behind it.

        Each takes the output of the one before, which nothing else takes. What hands on all that it
        is given may lie between. The list ends with the rectifier, or with the normalisation where
        no rectifier follows, and is empty where neither does.
        """
        found: list[Call] = []
        whole = 0
        current, allowed = edited, [NORMALISATION, RECTIFIER]
        while allowed and (following := self._find_only_taker(current)) is not None:
            kind = kind_of(following.module) if following.module is not None else None
            if kind != PASSES and kind not in allowed:
                break
            found.append(following)
            if kind != PASSES:
                whole = len(found)
                allowed = [RECTIFIER] if kind == NORMALISATION else []
            current = following
        return found[:whole]

    def _find_only_taker(self, made: Call) -> Call | None:
        """Find the call that alone takes the output of a call; None where there is none."""
        place = next(place for place, call in enumerate(self.calls) if call is made)
        takers = []
        for call in self.calls[place + 1 :]:
            if any(taken is made.output for taken in call.takes):
                takers.append(call)
                # A change in place: from here on the tensor is the output of this call.
                if call.output is made.output:
                    break
        if len(takers) != 1 or not takers[0].leaf or takers[0].given is not made.output:
            return None
        in_place = takers[0].output is made.output
        return takers[0] if in_place or made.output is not self.output else None


def record(module: nn.Module, run: Callable[[], Any]) -> Recording:
    """Record one run of `module`."""
    recorder = _Recorder()
    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if name:
                for handle in recorder.add_hooks(part, name):
                    hooks.callback(handle.remove)
        with recorder:
            recorder.recording.output = run()
    return recorder.recording


class _Recorder(TorchFunctionMode):
    """A recorder of the modules and functions that a run calls."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        # Calls within a module without modules in it are part of the call of that module.
        self.within: list[str] = []
        self.taken_within: list[Tensor] = []

    def add_hooks(self, module: nn.Module, name: str) -> list[RemovableHandle]:
        """Record the calls of one module until the handles are removed."""
        leaf = is_leaf(module)

        def begin(_: nn.Module, given: tuple[Any, ...]) -> None:
            if not self.within:
                self.recording.begun.append(name)
            if leaf:
                self.within.append(name)

        def end(
            part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            if leaf:
                self.within.pop()
            if not self.within:
                takes = (*_find_tensors((given, named)), *self.taken_within) if leaf else ()
                self.taken_within = []
                first = next(iter((*given, *named.values())), None)
                self.recording.calls.append(Call(name, first, output, takes, part, leaf))

        return [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(end, with_kwargs=True),
        ]

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        output = function(*arguments, **named)
        takes = tuple(_find_tensors((arguments, named)))
        # What gives no tensor, such as a shape, hands nothing on.
        hands_on = next(_find_tensors(output), None) is not None
        if self.within:
            self.taken_within += takes
        elif takes and hands_on:
            rectifier = find_rectifier(function, arguments[1:], named)
            first = arguments[0] if arguments else None
            self.recording.calls.append(Call("", first, output, takes, rectifier, leaf=True))
        return output


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no modules in it but those that compute its own weight."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _find_tensors(value: Any) -> Iterator[Tensor]:
    """Find the tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _find_tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _find_tensors(part)
