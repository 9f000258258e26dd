"""Pickles as graphs of what lies where: looked through and copied, never executed.

A node is a value of the pickle with the bytes that make it. Nothing is built, imported or called. A
changed graph is written with the opcodes that the pickle had, numbers of its memo anew.
"""

from __future__ import annotations

import pickletools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, BinaryIO, cast

from editspec_runtime.io.pickle_scan import Bounded

OPERATIONS = 10_000_000
"""The most operations of a pickle that is rewritten."""

COPY = 2**20
"""Bytes that are copied at a time."""


class UnknownForm(Exception):
    """A pickle that is not of the form that picklers write."""


@dataclass(frozen=True)
class Span:
    """Bytes of the source, from `begin` to `end`."""

    begin: int
    end: int


@dataclass(frozen=True)
class Remember:
    """The place in a node where the memo gets it."""


Writer = Callable[[BinaryIO], None]
"""Writes bytes that take the place of some of the source."""


@dataclass(eq=False)
class Node:
    """A value of a pickle.

    Attributes
    ----------
    kind
        The name of the opcode that made it.
    value
        The value of a text, a number or a global (``module name``); None of any other.
    parts
        All that makes it, in order: bytes of the source, and the nodes that it is made of.
    items
        Of a mapping, the indices of a key and of its value among the parts.
    data
        Where the bytes of a text of bytes lie, the second of its parts.
    """

    kind: str
    value: object = None
    parts: list[Span | Remember | Node | bytes | Writer] = field(default_factory=list)
    items: list[tuple[int, int]] = field(default_factory=list)
    data: Span | None = None

    def children(self) -> Iterator[tuple[int, Node]]:
        """The nodes that it is made of, with their indices among the parts."""
        for index, part in enumerate(self.parts):
            if isinstance(part, Node):
                yield index, part

    def child(self, number: int) -> tuple[int, Node]:
        """One of these nodes. Raises `UnknownForm` where there are fewer."""
        found = list(self.children())
        if number >= len(found):
            raise UnknownForm(f"{self.kind} has {len(found)} parts")
        return found[number]

    def function(self) -> str:
        """The global that a call calls; empty for anything else."""
        if self.kind not in ("REDUCE", "NEWOBJ"):
            return ""
        _, called = self.child(0)
        return str(called.value) if called.kind in ("GLOBAL", "STACK_GLOBAL") else ""

    def item(self, key: str) -> tuple[int, Node] | None:
        """The value of a mapping under a key, with its index; None where there is none."""
        for key_index, value_index in reversed(self.items):
            name, value = self.parts[key_index], self.parts[value_index]
            # A number stands for its digits.
            if isinstance(name, Node) and str(name.value) == key and isinstance(value, Node):
                return value_index, value
        return None

    def replace(self, index: int, part: Node | bytes | Writer) -> Node:
        """A copy with another part at an index."""
        parts = [*self.parts[:index], part, *self.parts[index + 1 :]]
        return Node(self.kind, self.value, parts, self.items)


class _Mark:
    """The place on the stack where a group of values begins."""

    def __init__(self, span: Span) -> None:
        self.span = span


@dataclass(frozen=True)
class Graph:
    """A pickle in a file: its root, and where it begins and ends."""

    root: Node
    begin: int
    end: int


JOINED = {
    "TUPLE1": 1,
    "TUPLE2": 2,
    "TUPLE3": 3,
    "REDUCE": 2,
    "NEWOBJ": 2,
    "NEWOBJ_EX": 3,
    "BINPERSID": 1,
    "STACK_GLOBAL": 2,
}
"""Operations that make one value of so many."""

ADDED = {"SETITEM": 2, "APPEND": 1, "BUILD": 1}
"""Operations that add so many values to the one below them."""


class _Reader:
    """A machine that runs the operations of a pickle on nodes."""

    def __init__(self) -> None:
        self.stack: list[Node | _Mark] = []
        self.memo: dict[int, Node] = {}
        # A value that came from the memo may not grow: others would see it where they stand.
        self.recalled: set[int] = set()

    def top(self) -> Node:
        """The value on the top of the stack."""
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise UnknownForm("a value is missing")
        return self.stack[-1]

    def pop(self) -> Node:
        """Take the value from the top of the stack."""
        node = self.top()
        self.stack.pop()
        self.recalled.discard(len(self.stack))
        return node

    def pop_group(self) -> list[Span | Node]:
        """Take all values down to the last mark, and the mark before them."""
        nodes: list[Node] = []
        while self.stack and not isinstance(self.stack[-1], _Mark):
            nodes.append(self.pop())
        if not self.stack:
            raise UnknownForm("a mark is missing")
        mark = cast(_Mark, self.stack.pop())
        return [mark.span, *reversed(nodes)]

    def grow(self, own: list[Span | Node], span: Span, pairs: bool) -> None:
        """Add values, and the operation that adds them, to the value below them."""
        target = self.top()
        if len(self.stack) - 1 in self.recalled:
            raise UnknownForm("a value grows where it is used")
        begin = len(target.parts)
        target.parts += [*own, span]
        if pairs:
            nodes = [begin + index for index, part in enumerate(own) if isinstance(part, Node)]
            target.items += list(zip(nodes[::2], nodes[1::2], strict=True))

    def run(self, name: str, argument: object, span: Span) -> None:
        """Run one operation."""
        act = ACTS.get(name, _Reader._push)
        act(self, name, argument, span)

    def _put(self, name: str, argument: object, span: Span) -> None:
        node = self.top()
        self.memo[len(self.memo) if name == "MEMOIZE" else cast(int, argument)] = node
        if len(self.stack) - 1 not in self.recalled:
            node.parts.append(Remember())

    def _get(self, name: str, argument: object, span: Span) -> None:
        node = self.memo.get(cast(int, argument))
        if node is None:
            raise UnknownForm("the memo is empty")
        self.recalled.add(len(self.stack))
        self.stack.append(node)

    def _mark(self, name: str, argument: object, span: Span) -> None:
        self.stack.append(_Mark(span))

    def _group(self, name: str, argument: object, span: Span) -> None:
        node = Node(name, parts=[*self.pop_group(), span])
        if name == "DICT":
            indices = [index for index, _ in node.children()]
            node.items = list(zip(indices[::2], indices[1::2], strict=True))
        self.stack.append(node)

    def _join(self, name: str, argument: object, span: Span) -> None:
        nodes = [self.pop() for _ in range(JOINED[name])][::-1]
        value = None
        if name == "STACK_GLOBAL":
            value = " ".join(str(node.value) for node in nodes)
        self.stack.append(Node(name, value, [*nodes, span]))

    def _add(self, name: str, argument: object, span: Span) -> None:
        nodes = [self.pop() for _ in range(ADDED[name])][::-1]
        self.grow(list(nodes), span, pairs=name == "SETITEM")

    def _add_group(self, name: str, argument: object, span: Span) -> None:
        self.grow(self.pop_group(), span, pairs=name == "SETITEMS")

    def _skip(self, name: str, argument: object, span: Span) -> None:
        """Leave out what a written graph has anew, or does without."""

    def _push(self, name: str, argument: object, span: Span) -> None:
        opcode = OPCODES[name]
        if opcode.stack_before or len(opcode.stack_after) != 1:
            raise UnknownForm(f"it has the operation {name}")
        value = argument if isinstance(argument, str | int) else None
        if isinstance(argument, bytes):
            # Only where they lie is kept: they may be large.
            begin = span.end - len(argument)
            data = Span(begin, span.end)
            self.stack.append(Node(name, None, [Span(span.begin, begin), data], data=data))
        else:
            self.stack.append(Node(name, value, [span]))


ACTS: dict[str, Callable[[_Reader, str, object, Span], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Reader._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader._get),
    **dict.fromkeys(("TUPLE", "LIST", "DICT", "FROZENSET"), _Reader._group),
    **dict.fromkeys(JOINED, _Reader._join),
    **dict.fromkeys(ADDED, _Reader._add),
    **dict.fromkeys(("SETITEMS", "APPENDS", "ADDITEMS"), _Reader._add_group),
    **dict.fromkeys(("PROTO", "FRAME"), _Reader._skip),
    "MARK": _Reader._mark,
}
"""The meaning of the operations that take or change values; all others make one of nothing."""

OPCODES = {opcode.name: opcode for opcode in pickletools.opcodes}


def read_graph(file: BinaryIO) -> Graph:
    """Read a pickle from where a file stands, up to its end.

    Raises `UnknownForm` where it is not as picklers write it, and `ValueError` for damage.
    """
    begin = file.tell()
    size = file.seek(0, 2)
    file.seek(begin)
    reader = _Reader()
    operations = pickletools.genops(cast("IO[bytes]", Bounded(file, size - begin)))
    for count, (opcode, argument, place) in enumerate(operations):
        if opcode.name == "STOP":
            break
        if count > OPERATIONS:
            raise UnknownForm(f"it has more than {OPERATIONS} operations")
        reader.run(opcode.name, argument, Span(cast(int, place), file.tell()))
    root = reader.pop()
    if reader.stack:
        raise UnknownForm("values are left over")
    return Graph(root, begin, file.tell())


def walk(root: Node) -> Iterator[Node]:
    """All nodes below a root, each once."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        for _, child in node.children():
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def count_uses(root: Node) -> Counter[int]:
    """How often each node is used, by its `id`: as a part of others, and the root as a whole."""
    uses: Counter[int] = Counter([id(root)])
    for node in walk(root):
        uses.update(id(child) for _, child in node.children())
    return uses


def write_graph(root: Node, source: BinaryIO, target: BinaryIO) -> None:
    """Write a graph as a pickle of protocol 2 or later, whatever its opcodes need."""
    uses = count_uses(root)
    numbers: dict[int, int] = {}
    protocol = max(2, *(_protocol(node) for node in walk(root)))
    target.write(bytes([0x80, protocol]))

    def remember(node: Node) -> None:
        if uses[id(node)] > 1 and id(node) not in numbers:
            numbers[id(node)] = len(numbers)
            target.write(_numbered(b"q", b"r", numbers[id(node)]))

    # A stack of its own: modules may lie deep in one another.
    waiting: list[tuple[Node, int]] = [(root, 0)]
    while waiting:
        node, index = waiting.pop()
        if index == 0 and id(node) in numbers:
            target.write(_numbered(b"h", b"j", numbers[id(node)]))
            continue
        if index == len(node.parts):
            remember(node)
            continue
        waiting.append((node, index + 1))
        part = node.parts[index]
        if isinstance(part, Node):
            waiting.append((part, 0))
        elif isinstance(part, Remember):
            remember(node)
        elif isinstance(part, Span):
            copy_bytes(source, target, part.begin, part.end)
        elif isinstance(part, bytes):
            target.write(part)
        else:
            part(target)
    target.write(b".")


def text_node(text: str) -> Node:
    """A node of a text."""
    data = text.encode()
    return Node("BINUNICODE", text, [b"X" + struct.pack("<I", len(data)) + data])


def copy_bytes(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    """Copy bytes of a file. Raises `ValueError` where they end too early."""
    source.seek(begin)
    while begin < end:
        piece = source.read(min(COPY, end - begin))
        if not piece:
            raise ValueError("it ends too early")
        target.write(piece)
        begin += len(piece)


def _protocol(node: Node) -> int:
    opcode = OPCODES[node.kind]
    return int(opcode.proto)


def _numbered(short: bytes, long: bytes, number: int) -> bytes:
    if number < 256:
        return short + bytes([number])
    return long + struct.pack("<I", number)
