"""What a pickle would build, found from its operations before any is carried out.

Small pickles can take very long or very much: a tuple of twice the same tuple, a hundred times
over, takes 2^100 steps to hash as a key, and a storage is as large as the pickle says. Here the
operations are followed with stand-ins for the objects.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import IO, Any, BinaryIO, cast

CALLS = 2_000_000
"""The most operations of a pickle; a checkpoint of a whole training has a tenth of them."""

STEPS = 4_000_000
"""The most steps that hashing all keys may take."""

AXES = 64
"""The most axes of a tensor."""

ITEM_SIZES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Untyped": 1,
    "QInt8": 1,
    "QUInt8": 1,
    "QInt32": 4,
}
"""Bytes of a number by the names of torch's storages."""

QUANTIZED = "torch._utils._rebuild_qtensor"
REBUILD = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    QUANTIZED,
)
"""The functions that make a tensor of a storage, an offset, sizes and strides."""


@dataclass(frozen=True)
class Global:
    """Something that a pickle names, as ``module.name``."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The memory of tensors, which lies outside of the pickle.

    Attributes
    ----------
    key
        Its name in the file.
    numbers, size
        How many numbers it holds, and in how many bytes.
    """

    key: str
    numbers: int
    size: int


@dataclass
class Parts:
    """A tuple or a list by what it holds."""

    items: list[Any] = field(default_factory=list)


OPAQUE = object()
"""Stands for whatever has no parts that are hashed."""

MARK = object()


@dataclass
class Scan:
    """What a pickle names, and the storages that it refers to by their keys."""

    names: set[str] = field(default_factory=set)
    storages: dict[str, Storage] = field(default_factory=dict)


def scan_pickle(file: BinaryIO, size: int) -> Scan:
    """Follow the next pickle in a file of which `size` bytes are left, up to its end.

    Raises
    ------
    UnpicklingError
        It is damaged; has more than `CALLS` operations; numbers more objects than it has bytes;
        takes more than `STEPS` to hash its keys; refers to what is not a storage; or has a tensor
        that is larger than its storage.
    """
    machine = _Machine(size)
    operations = pickletools.genops(cast("IO[bytes]", Bounded(file, size)))
    try:
        for count, (opcode, argument, _) in enumerate(operations):
            if count > CALLS:
                raise UnpicklingError("it has too many operations")
            machine.follow(opcode, argument)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        raise UnpicklingError("it is damaged") from error
    return machine.scan


class Bounded:
    """A file of which no more is asked for than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.end = file, file.tell() + size

    def read(self, count: int = -1) -> bytes:
        """Read so many bytes, or what is left."""
        left = self.end - self.file.tell()
        return self.file.read(min(count, left) if count >= 0 else left)

    def readline(self) -> bytes:
        """Read up to the end of a line."""
        return self.file.readline()

    def tell(self) -> int:
        """Tell the place in the file."""
        return self.file.tell()


class _Machine:
    """The stack and the memo of an unpickler, with stand-ins."""

    def __init__(self, size: int) -> None:
        self.steps, self.size = STEPS, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.scan = Scan()

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Carry out one operation."""
        special = OPERATIONS.get(opcode.name)
        if special is not None:
            special(self, argument)
            return
        # What an operation takes from the stack and puts there is known of each.
        taken = [each.name for each in opcode.stack_before]
        if "mark" in taken:
            self.pop_to_mark()
            taken = taken[: taken.index("mark")]
        for _ in taken:
            self.stack.pop()
        plain = argument if isinstance(argument, (int, str)) else OPAQUE
        self.stack.extend(plain for _ in opcode.stack_after)

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def count(self, value: Any) -> None:
        """Count the steps that hashing or walking through a value takes."""
        waiting = [value]
        while waiting:
            found = waiting.pop()
            self.steps -= 1
            if self.steps < 0:
                raise UnpicklingError("its keys are nested in one another too often")
            if isinstance(found, Parts):
                waiting.extend(found.items)
            elif isinstance(found, int):
                self.steps -= found.bit_length() // 64

    def remember(self, number: int) -> None:
        # The standard unpickler makes room for all numbers up to the largest.
        if number > self.size:
            raise UnpicklingError("it numbers more objects than it has bytes")
        self.memo[number] = self.stack[-1]

    def name(self, name: str) -> None:
        self.scan.names.add(name)
        self.stack.append(Global(name))

    def build(self, made: Any, given: Any) -> None:
        """Put what a call makes on the stack."""
        self.count(given)
        name = made.name if isinstance(made, Global) else ""
        if name in REBUILD:
            # One of whole numbers with a scale is first made as large as its shape.
            _require_within(given.items, whole=name == QUANTIZED)
        # A shape is hashed as the tuple that it is made of.
        self.stack.append(given if name == "torch.Size" else OPAQUE)


def _require_within(given: list[Any], *, whole: bool) -> None:
    """Raise `UnpicklingError` where a tensor is larger than its storage.

    A tensor may show numbers of its storage more than once, unless its storage is `whole`.
    """
    storage, offset, sizes, strides = given[0], given[1], given[2].items, given[3].items
    numbers = [offset, *sizes, *strides]
    sound = len(sizes) == len(strides) <= AXES
    if not sound or any(type(number) is not int or number < 0 for number in numbers):
        raise UnpicklingError("a tensor has no shape")
    if not isinstance(storage, Storage) or 0 in sizes:
        return
    if whole and math.prod(sizes) > storage.numbers:
        raise UnpicklingError("a tensor is larger than what is stored of it")
    steps = zip(sizes, strides, strict=True)
    if offset + sum((size - 1) * stride for size, stride in steps) >= storage.numbers:
        raise UnpicklingError("a tensor is larger than what is stored of it")


def _persistent(machine: _Machine, _: Any) -> None:
    """Follow a reference to a storage: its kind, its key, its place, and how many numbers."""
    kind, storage, key, _, numbers, *_ = machine.stack.pop().items
    name = storage.name.rpartition(".")[2].removesuffix("Storage")
    if kind != "storage" or not isinstance(key, str) or type(numbers) is not int or numbers < 0:
        raise UnpicklingError("it refers to an object outside of itself")
    found = Storage(key, numbers, numbers * ITEM_SIZES[name])
    known = machine.scan.storages.setdefault(key, found)
    if known.size < found.size:
        raise UnpicklingError("it refers to a storage by two sizes")
    machine.stack.append(found)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def follow(machine: _Machine, _: Any) -> None:
        items = [machine.stack.pop() for _ in range(count)]
        machine.stack.append(Parts(items[::-1]))

    return follow


def _tuple_to_mark(machine: _Machine, _: Any) -> None:
    machine.stack.append(Parts(machine.pop_to_mark()))


def _append(machine: _Machine, _: Any) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _appends(machine: _Machine, _: Any) -> None:
    _extend(machine, machine.pop_to_mark())


def _extend(machine: _Machine, items: list[Any]) -> None:
    if isinstance(machine.stack[-1], Parts):
        machine.stack[-1].items.extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    machine.stack.pop()
    machine.count(machine.stack.pop())


def _set_items(machine: _Machine, _: Any) -> None:
    for key in machine.pop_to_mark()[::2]:
        machine.count(key)


def _dictionary(machine: _Machine, argument: Any) -> None:
    _set_items(machine, argument)
    machine.stack.append(OPAQUE)


def _add_items(machine: _Machine, _: Any) -> None:
    for item in machine.pop_to_mark():
        machine.count(item)


def _frozen_set(machine: _Machine, _: Any) -> None:
    items = Parts(machine.pop_to_mark())
    machine.count(items)
    # A set hashes what it holds again, when it is a key itself.
    machine.stack.append(items)


def _global(machine: _Machine, argument: Any) -> None:
    machine.name(argument.replace(" ", ".", 1))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(".".join([module, name]))


def _call(machine: _Machine, _: Any) -> None:
    given, made = machine.stack.pop(), machine.stack.pop()
    machine.build(made, given)


def _call_named(machine: _Machine, _: Any) -> None:
    named, given, made = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.build(made, Parts([given, named]))


def _object(machine: _Machine, _: Any) -> None:
    made, *given = machine.pop_to_mark()
    machine.build(made, Parts(given))


def _instance(machine: _Machine, argument: Any) -> None:
    given = machine.pop_to_mark()
    _global(machine, argument)
    machine.build(machine.stack.pop(), Parts(given))


def _push_mark(machine: _Machine, _: Any) -> None:
    machine.stack.append(MARK)


def _put(machine: _Machine, argument: Any) -> None:
    machine.remember(argument)


def _memoize(machine: _Machine, _: Any) -> None:
    machine.remember(len(machine.memo))


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[argument])


def _duplicate(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _pop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _build_state(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _refuse(machine: _Machine, _: Any) -> None:
    raise UnpicklingError("it refers to an object outside of itself")


OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _push_mark,
    "POP": _pop,
    "DUP": _duplicate,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "EMPTY_TUPLE": _tuple(0),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _tuple_to_mark,
    "EMPTY_LIST": _tuple(0),
    "LIST": _tuple_to_mark,
    "APPEND": _append,
    "APPENDS": _appends,
    "DICT": _dictionary,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "FROZENSET": _frozen_set,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _call_named,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": _build_state,
    "BINPERSID": _persistent,
    "PERSID": _refuse,
    "EXT1": _refuse,
    "EXT2": _refuse,
    "EXT4": _refuse,
}
"""The operations whose objects matter; of any other only the places on the stack are followed."""
