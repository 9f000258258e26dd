"""What a graph of others takes to compute, found with shapes alone before it runs.

A file of a kilobyte may double a tensor sixty times. Each operator is therefore run on tensors
without numbers first, which take no memory, and all that it makes and computes is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from editspec_runtime.errors import FileError

CALLS = 20_000
"""The most operators that one run may call, those that others are made of among them."""

PARTS = 2**14
"""The longest axis that is taken apart into tensors of their own."""

TOUCH = 16
"""Operations that reading or writing a number takes as long as."""

COLUMNS = 64
"""Positions of a kernel up to which a convolution takes no memory of its own."""

LARGEST = 2**63
"""The end of the whole numbers that a graph may compute."""

DIVISIONS = {"div", "floor_divide", "remainder", "fmod"}
"""Operators that end the process for the smallest whole number by -1."""


class Unbounded(Exception):
    """A graph that takes more than its file allows, or whose shapes follow from numbers.

    Attributes
    ----------
    reason
        What is wrong. torch adds words of its own to the message.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Budget:
    """What a network may take for one latent.

    Attributes
    ----------
    numbers
        The numbers that all operators together make.
    work
        The operations that they do, multiplications and additions one by one.
    """

    numbers: int
    work: int


def budget_of(size: int) -> Budget:
    """The budget of a network whose file has `size` bytes.

    A StyleGAN2 of 1024 pixels makes 8 numbers and does 1,200 operations for each of its bytes.
    """
    return Budget(2**27 + 16 * size, 2**37 + 2**14 * size)


@dataclass
class DryRun:
    """Runs of a graph with shapes alone, one for each shape of its input.

    As a hook of a network's module it refuses an input whose run would take too much.
    """

    program: ExportedProgram
    budget: Budget
    name: str
    sound: set[tuple[int, ...]] = field(default_factory=set)

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Raise a `FileError` unless the module may run on these inputs."""
        latents = given[0]
        try:
            self.require_bounded(tuple(latents.shape), latents.dtype)
        except Unbounded as error:
            raise FileError(
                f"{self.name} cannot be run: {error.reason}.",
                "Export the network that draws images, and nothing around it.",
            ) from error

    def __deepcopy__(self, memo: object) -> DryRun:
        """Return this: the graph stays as it is in every copy of the network."""
        return self

    def require_bounded(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raise `Unbounded` where a run on latents of a shape takes more than the budget."""
        if shape in self.sound:
            return
        items = max(1, shape[0]) if shape else 1
        meter = _Meter(self.budget.numbers * items, self.budget.work * items)
        fake = FakeTensorMode(allow_fallback_kernels=False)
        try:
            with torch.no_grad(), fake:
                inputs = list(_inputs(self.program, shape, dtype))
                with meter:
                    runner = _Runner(self.program.graph_module)
                    runner.run(*inputs, enable_io_processing=False)
        except Unbounded:
            raise
        except Exception as error:  # torch refuses what does not fit with errors of many kinds
            raise Unbounded(
                "its shapes do not follow from the shape of the latents alone, or do not fit"
            ) from error
        self.sound.add(shape)


def _inputs(program: ExportedProgram, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Any]:
    """The inputs of a graph by their shapes: latents, parameters, buffers, constants."""
    stored: Mapping[str, Any] = {**program.constants, **program.state_dict}
    for spec in program.graph_signature.input_specs:
        if isinstance(spec.arg, ConstantArgument):
            yield spec.arg.value
        elif spec.kind == InputKind.USER_INPUT:
            yield torch.empty(shape, dtype=dtype)
        else:
            given = stored[str(spec.target)]
            # The network holds all floating point numbers in the precision of the spec.
            kept = given.dtype if not given.is_floating_point() else dtype
            yield torch.empty_strided(given.shape, given.stride(), dtype=kept)


class _Runner(torch.fx.Interpreter):
    """A run of a graph, whose whole numbers are bounded."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        if isinstance(result, int) and abs(result) >= LARGEST:
            raise Unbounded("a number in it grows without bound")
        return result


class _Meter(TorchDispatchMode):
    """What the operators within it make and do; ends them where it is too much."""

    def __init__(self, numbers: int, work: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.work, self.calls = numbers, work, 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        self.calls += 1
        if self.calls > CALLS:
            raise Unbounded(f"it calls more than {CALLS} operators")
        given = _tensors((args, named))
        _require_parts(func, given)
        _require_division(func, args, named, given)
        _require_norm(func, args)
        result = func(*args, **named)
        made = _tensors(result)
        old = {_storage(tensor) for tensor in given}
        new = [tensor for tensor in made if _storage(tensor) not in old]
        self.numbers -= sum(_stored(tensor) for tensor in new)
        self.numbers -= _count_columns(func, args, result)
        self.work -= _count_work(func, args, named, result)
        # A view reads nothing. What changes a tensor in place makes none, and reads all the same.
        if new or func._schema.is_mutable:
            self.work -= TOUCH * sum(tensor.numel() for tensor in [*given, *made])
        if self.numbers < 0:
            raise Unbounded("it makes many more numbers for one latent than its file can explain")
        if self.work < 0:
            raise Unbounded("it computes much longer for one latent than its file can explain")
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


def _stored(tensor: Tensor) -> int:
    """The numbers in the memory of a tensor, of which it may show a few."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _require_parts(func: OpOverload, given: Sequence[Tensor]) -> None:
    """Raise `Unbounded` where a tensor may be taken apart into very many."""
    lists = any(isinstance(made.type, torch.ListType) for made in func._schema.returns)
    if lists and any(max(tensor.shape, default=0) > PARTS for tensor in given):
        raise Unbounded(f"it takes an axis of more than {PARTS} positions apart")


def _require_division(
    func: OpOverload, args: tuple[Any, ...], named: Mapping[str, Any], given: Sequence[Tensor]
) -> None:
    """Raise `Unbounded` where whole numbers are divided by what is not known, and rounded."""
    name = func._schema.name.partition("::")[2].removesuffix("_")
    true_division = name == "div" and named.get("rounding_mode") is None
    if name not in DIVISIONS or true_division or any(map(_is_real, [*given, *args])):
        return
    divisor = args[1] if len(args) > 1 else 0
    if not isinstance(divisor, int) or divisor <= 0:
        raise Unbounded("it divides whole numbers by numbers that are not known")


def _require_norm(func: OpOverload, args: tuple[Any, ...]) -> None:
    """Raise `Unbounded` where a weight's norms are not one for each of its rows.

    torch's own kernel does not look.
    """
    if func.overloadpacket is not torch.ops.aten._weight_norm_interface:
        return
    weight, norms = args[0], args[1]
    axis = args[2] if len(args) > 2 else 0
    wanted = [1] * weight.ndim
    if weight.ndim < 2 or weight.numel() == 0 or axis not in (0, weight.ndim - 1):
        raise Unbounded("it normalises what has no rows")
    wanted[axis] = weight.shape[axis]
    if list(norms.shape) != wanted or norms.dtype != weight.dtype or not norms.is_contiguous():
        raise Unbounded("it normalises a weight by norms of another shape")


def _is_real(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex()
    return isinstance(value, float)


def _count_work(
    func: OpOverload, args: tuple[Any, ...], named: Mapping[str, Any], result: Any
) -> int:
    """The operations of an operator besides those of reading and writing."""
    formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
    if formula is not None:
        return int(formula(*args, **named, out_val=result))
    return sum(tensor.numel() for tensor in _tensors(result)) * _kernel(func, args, named)


def _kernel(func: OpOverload, args: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """The positions of the window of a pooling; 0 where an operator has none."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "kernel_size":
            size = args[place] if place < len(args) else named.get("kernel_size", 1)
            return math.prod(size) if isinstance(size, (list, tuple)) else int(size)
    return 0


def _count_columns(func: OpOverload, args: tuple[Any, ...], result: Any) -> int:
    """The numbers that a convolution may write out before it multiplies."""
    if func.overloadpacket is not torch.ops.aten.convolution:
        return 0
    given, weight, transposed = args[0], args[1], args[6]
    positions = math.prod(weight.shape[2:])
    # Small kernels of single precision are multiplied in place.
    if positions <= COLUMNS and given.dtype == torch.float32:
        return 0
    maps = given if transposed else result
    channels = weight.shape[1] if not transposed else math.prod(weight.shape[:2]) // given.shape[1]
    return int(positions * channels * len(maps) * math.prod(maps.shape[2:]))
