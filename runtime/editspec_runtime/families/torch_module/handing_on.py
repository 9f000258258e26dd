"""The replacement of what a layer of a running network gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from editspec_runtime.families.torch_module.recording import Step


@contextmanager
def replace_outputs(
    network: nn.Module, chain: Sequence[Step], values: Iterator[Tensor]
) -> Iterator[None]:
    """Have runs of a network go on with `values` behind the last step of a chain, within this.

    Each run takes the next of the values. The first step is a module that a run calls once. Later
    ones may be called at other places, too: a step is the call that takes what the step before
    gave.
    """
    replacement = _Replacement(len(chain), values)
    with ExitStack() as hooks:
        for number, step in enumerate(chain):
            if step.function is None:
                module = network.get_submodule(step.name)
                handle = module.register_forward_hook(replacement.hook(number))
                hooks.callback(handle.remove)
        if any(step.function is not None for step in chain):
            hooks.enter_context(replacement)
        replacement.functions = {
            number for number, step in enumerate(chain) if step.function is not None
        }
        yield


class _Replacement(TorchFunctionMode):
    """A follower of a chain, which hands on values in the place of what its last step gives."""

    def __init__(self, length: int, values: Iterator[Tensor]) -> None:
        super().__init__()
        self.length = length
        self.values = values
        self.functions: set[int] = set()
        # The step that comes next, and what it is going to take.
        self.next = 0
        self.handed: Any = None

    def hook(self, number: int) -> Any:
        """The forward hook of the module of a step."""

        def follow(_: nn.Module, taken: tuple[Any, ...], output: Any) -> Any:
            first = taken[0] if taken else None
            if number == 0 or (number == self.next and first is self.handed):
                return self._take(number, first, output)
            return output

        return follow

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        output = function(*arguments, **(named or {}))
        is_step = self.next in self.functions and isinstance(output, Tensor)
        if is_step and arguments and arguments[0] is self.handed:
            return self._take(self.next, arguments[0], output)
        return output

    def _take(self, number: int, taken: Any, output: Any) -> Any:
        """Go on to the step behind `number`, or hand on a value where that was the last."""
        self.next, self.handed = number + 1, output
        if self.next < self.length:
            return output
        self.next, self.handed = 0, None
        value = next(self.values)
        # What was changed in place is changed again: the network may go on with it under its old
        # name.
        return taken.copy_(value) if output is taken else value
