"""Where the numbers of tensors lie in the graph of a pickle of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from editspec_runtime.io.pickle_graph import Node, UnknownForm, text_node, walk

MODULE = "torch_utils.persistence _reconstruct_persistent_obj"
ORDERED = "collections OrderedDict"
TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
TYPED = "torch._tensor _rebuild_from_type_v2"
STORAGE = "torch.storage _load_from_bytes"

SIZES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
    "torch QInt32Storage": 4,
    "torch QInt8Storage": 1,
    "torch QUInt8Storage": 1,
    "torch.storage UntypedStorage": 1,
}
"""Bytes of an element by the class of a storage."""

SEQUENCES = ("EMPTY_LIST", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
"""The kinds of nodes that are lists or tuples."""

Steps = tuple[tuple[Node, int], ...]
"""Nodes from the root down, each with the index of the next one among its parts."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the graph of a pickle.

    Attributes
    ----------
    steps
        The way to its storage.
    storage
        The node of the storage.
    offset, size, stride
        The place of its numbers in the storage, in elements.
    """

    steps: Steps
    storage: Node
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def extent(self) -> tuple[int, int]:
        """The first element of the storage that belongs to it, and the one behind its last."""
        if 0 in self.size:
            return self.offset, self.offset
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return self.offset, self.offset + last + 1

    def repeats(self) -> bool:
        """Whether some of its numbers are stored once and stand in several places."""
        reach = 1
        for step, n in sorted(zip(self.stride, self.size, strict=True)):
            if n > 1:
                if step < reach:
                    return True
                reach = step * (n - 1) + reach
        return False


def find_tensor(root: Node, keys: Sequence[str]) -> StoredTensor:
    """Find a tensor by the keys that lead to it, names of modules and of parameters among them.

    Raises `UnknownForm` where there is none, or where it is stored in an unknown way.
    """
    steps: Steps = ()
    node = root
    for key in keys:
        # The names of a module's tensors are ways themselves.
        names = key.split(".") if node.function() == MODULE else [key]
        for name in names:
            steps, node = _enter(steps, node, name)
    return _read_tensor(steps, node)


def find_tensors(root: Node) -> Iterator[StoredTensor]:
    """All tensors of a graph, without the way to them."""
    for node in walk(root):
        known = node.function() in TENSORS
        if node.function() == TYPED:
            _, arguments = node.child(1)
            known = arguments.child(0)[1].value in TENSORS
        if known:
            yield _read_tensor((), node)


def _enter(steps: Steps, node: Node, key: str) -> tuple[Steps, Node]:
    """Go from a mapping or a module to what it has under a key."""
    if node.function() == MODULE:
        steps, node = _state_of_module(steps, node)
        for kind in ("_modules", "_parameters", "_buffers"):
            found = node.item(kind)
            if found is None:
                continue
            index, members = found
            inner = _member(members, key)
            if inner is not None:
                return (*steps, (node, index), *inner[0]), inner[1]
        raise UnknownForm(f"there is no {key}")
    found_member = _member(node, key)
    if found_member is None:
        raise UnknownForm(f"there is no {key}")
    return (*steps, *found_member[0]), found_member[1]


def _member(node: Node, key: str) -> tuple[Steps, Node] | None:
    """Find what a mapping has under a key, or a list or tuple at a place."""
    if node.kind in SEQUENCES and key.isdecimal():
        index, value = node.child(int(key))
        return ((node, index),), value
    found = node.item(key)
    if found is not None:
        index, value = found
        return ((node, index),), value
    if node.function() != ORDERED:
        return None
    # Python 2 wrote ordered dictionaries as a list of pairs.
    arguments_index, arguments = node.child(1)
    for pairs_index, pairs in arguments.children():
        for pair_index, pair in pairs.children():
            _, name = pair.child(0)
            if name.value == key:
                value_index, value = pair.child(1)
                way = ((node, arguments_index), (arguments, pairs_index), (pairs, pair_index))
                return (*way, (pair, value_index)), value
    return None


def _state_of_module(steps: Steps, node: Node) -> tuple[Steps, Node]:
    arguments_index, arguments = node.child(1)
    meta_index, meta = arguments.child(0)
    found = meta.item("state")
    if found is None:
        raise UnknownForm("a module has no state")
    index, state = found
    return (*steps, (node, arguments_index), (arguments, meta_index), (meta, index)), state


def _read_tensor(steps: Steps, node: Node) -> StoredTensor:
    while node.function() in PARAMETERS:
        arguments_index, arguments = node.child(1)
        index, inner = arguments.child(0)
        steps, node = (*steps, (node, arguments_index), (arguments, index)), inner
    arguments_index, arguments = (0, node)
    if node.function() in TENSORS or node.function() == TYPED:
        arguments_index, arguments = node.child(1)
        steps = (*steps, (node, arguments_index))
    if node.function() == TYPED:
        _, function = arguments.child(0)
        if function.value not in TENSORS:
            raise UnknownForm(f"a tensor is made by {function.value}")
        index, inner = arguments.child(2)
        steps, arguments = (*steps, (arguments, index)), inner
    elif node.function() not in TENSORS:
        raise UnknownForm(f"a tensor is made by {node.function() or node.kind}")
    index, storage = arguments.child(0)
    _, offset = arguments.child(1)
    _, size = arguments.child(2)
    _, stride = arguments.child(3)
    return StoredTensor(
        (*steps, (arguments, index)),
        storage,
        _read_number(offset),
        tuple(_read_number(each) for _, each in size.children()),
        tuple(_read_number(each) for _, each in stride.children()),
    )


def _read_number(node: Node) -> int:
    if not isinstance(node.value, int) or node.value < 0:
        raise UnknownForm("a size is not a number")
    return node.value


def storage_key(storage: Node) -> tuple[str, str, int]:
    """The key, the class and the number of elements of a storage that lies outside of the pickle.

    Raises `UnknownForm` where it is of another kind.
    """
    if storage.kind != "BINPERSID":
        raise UnknownForm(f"a storage is made by {storage.function() or storage.kind}")
    _, identifier = storage.child(0)
    fields = [node for _, node in identifier.children()]
    if len(fields) not in (5, 6) or fields[0].value != "storage":
        raise UnknownForm("a storage is named in an unknown way")
    if len(fields) == 6 and fields[5].kind != "NONE":
        raise UnknownForm("a storage is a part of another one")
    return str(fields[2].value), str(fields[1].value), _read_number(fields[4])


def rename_storage(storage: Node, key: str) -> Node:
    """The node of a storage under another key."""
    index, identifier = storage.child(0)
    key_index, _ = identifier.child(2)
    return storage.replace(index, identifier.replace(key_index, text_node(key)))


def put_node(steps: Steps, node: Node) -> Node:
    """The first node of a way, with another node at its end.

    All nodes on the way are copies, so that other ways to the same nodes stay as they were.
    """
    for parent, index in reversed(steps):
        node = parent.replace(index, node)
    return node
