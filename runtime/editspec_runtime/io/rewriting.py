"""Files of torch, and pickles with tensors, written again with some numbers replaced.

Everything else stays as it is: types, order, shared storages, and the bytes of the pickle. Where a
tensor that changes shares its numbers with others, it gets a storage of its own, and the others
keep theirs.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor

from editspec_runtime.errors import FileError
from editspec_runtime.io.archives import STORED, Archive, Entry, damaged, open_archive
from editspec_runtime.io.files import LEGACY_TORCH, detect_container
from editspec_runtime.io.marks import as_extra, as_trailer
from editspec_runtime.io.pickle_graph import (
    COPY,
    Graph,
    Node,
    Span,
    UnknownForm,
    copy_bytes,
    count_uses,
    read_graph,
    walk,
    write_graph,
)
from editspec_runtime.io.stored_tensors import (
    SIZES,
    STORAGE,
    Steps,
    StoredTensor,
    find_tensor,
    find_tensors,
    put_node,
    rename_storage,
    storage_key,
)

ALIGNMENT = 64
"""Bytes that torch puts the numbers of an archive at multiples of."""

PADDING = b"FB"
"""The kind of extra field that torch pads with."""


@dataclass(frozen=True)
class Place:
    """The bytes of a storage in a file, and the bytes of one of its elements."""

    begin: int
    size: int
    element: int


@dataclass(frozen=True)
class Replacement:
    """The bytes of a file that hold a tensor, and the numbers that it gets."""

    begin: int
    end: int
    stored: StoredTensor
    numbers: Tensor

    def read(self, file: BinaryIO) -> bytes:
        """These bytes with the new numbers; what lies between them stays."""
        file.seek(self.begin)
        data = bytearray(file.read(self.end - self.begin))
        if data:
            flat = torch.frombuffer(data, dtype=self.numbers.dtype)
            flat.as_strided(self.stored.size, self.stored.stride).copy_(self.numbers)
        return bytes(data)


class _Replaced(io.RawIOBase):
    """A file as it is with some bytes replaced."""

    def __init__(self, file: BinaryIO, replacements: Sequence[Replacement]) -> None:
        self.file, self.place = file, 0
        self.replacements = sorted(replacements, key=lambda each: each.begin)
        self.made: tuple[Replacement, bytes] | None = None

    def seek(self, place: int, whence: int = 0) -> int:
        self.place = place
        return place

    def read(self, count: int = -1) -> bytes:
        self.file.seek(self.place)
        data = bytearray(self.file.read(count))
        for each in self.replacements:
            begin = max(each.begin, self.place)
            end = min(each.end, self.place + len(data))
            if begin < end:
                new = self._make(each)[begin - each.begin : end - each.begin]
                data[begin - self.place : end - self.place] = new
        self.place += len(data)
        return bytes(data)

    def _make(self, replacement: Replacement) -> bytes:
        # A storage is copied piece by piece, and made once.
        if self.made is None or self.made[0] is not replacement:
            self.made = replacement, replacement.read(self.file)
        return self.made[1]


class _Form(Protocol):
    """A kind of file that holds a pickle and the numbers of its tensors."""

    root: Node

    def place(self, storage: Node) -> Place:
        """Where the numbers of a storage lie."""

    def add(self, storage: Node, replacement: Replacement) -> Node:
        """A storage of its own for a copy of another one's numbers."""

    def write(self, root: Node, source: BinaryIO, target: BinaryIO, said: str) -> None:
        """Write the file with another graph."""


class _Legacy:
    """A file of the time before torch 1.6, or a storage within another pickle.

    Four pickles (a number, a version, the kind of machine, the content), a list of the keys of
    storages, then each storage: how many numbers, and the numbers.
    """

    def __init__(self, file: BinaryIO, begin: int = 0) -> None:
        self.file, self.begin = file, begin
        file.seek(begin)
        for _ in range(2):
            read_graph(file)
        _require_little(read_graph(file).root.item("little_endian"))
        self.graph = read_graph(file)
        self.root = self.graph.root
        self.keys = read_graph(file)
        self.added: dict[str, tuple[Place, Replacement]] = {}
        elements = dict(_list_storages(self.root))
        self.places: dict[str, Place] = {}
        at, size = self.keys.end, file.seek(0, io.SEEK_END)
        for _, key in self.keys.root.children():
            file.seek(at)
            (count,) = struct.unpack("<q", file.read(8))
            element = elements.get(str(key.value))
            if element is None or count < 0:
                raise UnknownForm("it has storages that nothing uses")
            self.places[str(key.value)] = Place(at + 8, count * element, element)
            at += 8 + count * element
            if at > size:
                raise UnknownForm("its numbers end too early")
        self.end = at

    def place(self, storage: Node) -> Place:
        """Where the numbers of a storage lie."""
        return _find_place(self.places, storage)

    def add(self, storage: Node, replacement: Replacement) -> Node:
        """A storage under a new key."""
        key = _new_key({*self.places, *self.added})
        self.added[key] = (self.place(storage), replacement)
        return rename_storage(storage, key)

    def write(self, root: Node, source: BinaryIO, target: BinaryIO, said: str) -> None:
        """Write the file with another graph."""
        copy_bytes(source, target, self.begin, self.graph.begin)
        _write_pickle(self.graph, root, source, target)
        keys = list(_used_keys(root, self.places)) + list(self.added)
        if keys == list(self.places):
            copy_bytes(source, target, self.keys.begin, self.keys.end)
        else:
            target.write(pickle.dumps(keys, protocol=2))
        for key in keys:
            place, own = self.places.get(key), source
            if key in self.added:
                place, replacement = self.added[key]
                own = _overlay(self.file, [replacement])
            assert place is not None
            target.write(struct.pack("<q", place.size // place.element))
            copy_bytes(own, target, place.begin, place.begin + place.size)
        target.write(as_trailer(said))


class _Archive:
    """An archive: a pickle, and an entry for each storage."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.archive: Archive = open_archive(path)
        found = [name for name in self.archive if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise UnknownForm("it holds not one pickle")
        self.pickle = found[0]
        self.folder = self.pickle.removesuffix("data.pkl")
        if self.archive.get(f"{self.folder}byteorder", b"little") != b"little":
            raise UnknownForm("its numbers are big-endian")
        self.content = io.BytesIO(self.archive[self.pickle])
        self.graph = read_graph(self.content)
        self.root = self.graph.root
        self.added: dict[str, tuple[Place, Replacement]] = {}
        self.elements = dict(_list_storages(self.root))

    def place(self, storage: Node) -> Place:
        """Where the numbers of a storage lie."""
        key, _, _ = storage_key(storage)
        entry = self.archive.entries.get(f"{self.folder}data/{key}")
        if entry is None or entry.method != STORED:
            raise UnknownForm("its numbers are missing, or compressed")
        return Place(entry.begin, entry.size, self.elements[key])

    def add(self, storage: Node, replacement: Replacement) -> Node:
        """A storage under a new key."""
        prefix = f"{self.folder}data/"
        used = {name.removeprefix(prefix) for name in self.archive}
        key = _new_key({*used, *self.added})
        self.added[key] = (self.place(storage), replacement)
        return rename_storage(storage, key)

    def write(self, root: Node, source: BinaryIO, target: BinaryIO, said: str) -> None:
        """Write the file with another graph."""
        content = io.BytesIO()
        _write_pickle(self.graph, root, self.content, content)
        replaced = {self.pickle: content.getvalue()} if root is not self.root else {}
        unused: set[str] = set()
        if replaced:
            left = set(_used_keys(root, self.elements))
            unused = {f"{self.folder}data/{key}" for key in self.elements if key not in left}
        with zipfile.ZipFile(target, "w") as archive:
            extra = as_extra(said)
            for name, entry in self.archive.entries.items():
                if name in unused:
                    continue
                data = replaced.get(name)
                size = entry.size if data is None else len(data)
                with open_entry(archive, target, name, size, extra) as out:
                    if data is not None:
                        out.write(data)
                    elif entry.method != STORED:
                        out.write(self.archive[name])
                    else:
                        self.copy_entry(source, out, entry)
                extra = b""
                if name == self.pickle:
                    self.write_added(archive, target)

    def write_added(self, archive: zipfile.ZipFile, target: BinaryIO) -> None:
        """Write the storages that are new."""
        for key, (place, replacement) in self.added.items():
            own = _overlay(self.file, [replacement])
            with open_entry(archive, target, f"{self.folder}data/{key}", place.size, b"") as out:
                copy_bytes(own, out, place.begin, place.begin + place.size)

    def copy_entry(self, source: BinaryIO, out: BinaryIO, entry: Entry) -> None:
        """Copy the bytes of an entry, which must be what the archive says of them."""
        crc = 0
        self.file.seek(entry.begin)
        for at in range(0, entry.size, COPY):
            crc = zlib.crc32(self.file.read(min(COPY, entry.size - at)), crc)
        if crc != entry.crc:
            raise damaged(self.path, f"the content of {entry.name} is not as it was written")
        copy_bytes(source, out, entry.begin, entry.begin + entry.size)


class _Pickle:
    """A bare pickle, whose storages are files of torch within it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        file.seek(0)
        self.graph = read_graph(file)
        self.root = self.graph.root
        self.within: dict[int, Place] = {}

    def place(self, storage: Node) -> Place:
        """Where the numbers of a storage lie."""
        _, data, span = _payload(storage)
        if id(data) not in self.within:
            self.file.seek(span.begin)
            if LEGACY_TORCH not in self.file.read(32):
                raise UnknownForm("a storage within it is of a new kind")
            inner = _Legacy(self.file, span.begin)
            self.within[id(data)] = inner.place(inner.root)
        return self.within[id(data)]

    def add(self, storage: Node, replacement: Replacement) -> Node:
        """The bytes of a storage once more, with other numbers."""
        steps, data, span = _payload(storage)

        def write(target: BinaryIO) -> None:
            copy_bytes(_overlay(self.file, [replacement]), target, span.begin, span.end)

        return put_node(steps, data.replace(1, write))

    def write(self, root: Node, source: BinaryIO, target: BinaryIO, said: str) -> None:
        """Write the file with another graph."""
        _write_pickle(self.graph, root, source, target)
        target.write(as_trailer(said))


def rewrite(
    path: Path, target: BinaryIO, changes: Mapping[tuple[str, ...], Tensor], said: str
) -> None:
    """Write a file of torch, or a pickle, again with some tensors replaced.

    Parameters
    ----------
    path
        The file, which stays as it is.
    target
        Where it is written, from the beginning.
    changes
        The tensors by the keys that lead to them, in the shape and dtype that they have.
    said
        What is said of the file, as text (`read_mark`); empty for nothing.

    Raises
    ------
    FileError
        The file is damaged, or of a form that cannot be written.
    """
    try:
        with path.open("rb") as file:
            form = _read_form(path, file)
            root, replacements = _plan(form, changes)
            form.write(root, _overlay(file, replacements), target, said)
    except (UnknownForm, ValueError, struct.error, KeyError, RecursionError) as error:
        reason = str(error) if isinstance(error, UnknownForm) else "it is damaged"
        raise FileError(
            f"{path} cannot be written again in its own form: {reason}.",
            "Give a name that ends in .safetensors.",
        ) from error


def _read_form(path: Path, file: BinaryIO) -> _Form:
    head = file.read(32)
    if head.startswith(b"PK"):
        return _Archive(file, path)
    if detect_container(path) == "torch":
        return _Legacy(file)
    return _Pickle(file)


def _plan(form: _Form, changes: Mapping[tuple[str, ...], Tensor]) -> tuple[Node, list[Replacement]]:
    """The graph that is to be written, and what is replaced where it lies."""
    root, replacements = form.root, []
    uses = count_uses(root)
    ranges = [_byte_range(form, tensor) for tensor in find_tensors(root)]
    for keys, numbers in changes.items():
        stored = find_tensor(form.root, keys)
        begin, end = _byte_range(form, stored)
        place = form.place(stored.storage)
        if stored.size != tuple(numbers.shape) or place.element != numbers.element_size():
            raise UnknownForm(f"{'.'.join(keys)} is another tensor")
        if end > place.begin + place.size or stored.repeats():
            raise UnknownForm(f"{'.'.join(keys)} stores some of its numbers once for several")
        replacement = Replacement(begin, end, stored, numbers.detach().cpu())
        way = [node for node, _ in stored.steps[1:]] + [stored.storage]
        alone = all(uses[id(node)] == 1 for node in way)
        if alone and sum(first < end and begin < last for first, last in ranges) <= 1:
            replacements.append(replacement)
        else:
            own = form.add(stored.storage, replacement)
            root = put_node(find_tensor(root, keys).steps, own)
    return root, replacements


def _byte_range(form: _Form, stored: StoredTensor) -> tuple[int, int]:
    """The bytes of the file from the first of a tensor's numbers to its last."""
    place = form.place(stored.storage)
    first, last = stored.extent()
    return place.begin + first * place.element, place.begin + last * place.element


def _write_pickle(graph: Graph, root: Node, source: BinaryIO, target: BinaryIO) -> None:
    if root is graph.root:
        copy_bytes(source, target, graph.begin, graph.end)
    else:
        write_graph(root, source, target)


def _overlay(file: BinaryIO, replacements: Sequence[Replacement]) -> BinaryIO:
    return _Replaced(file, replacements)  # type: ignore[return-value]


def _list_storages(root: Node) -> Iterator[tuple[str, int]]:
    """The keys of all storages outside of a pickle, with the bytes of an element."""
    for node in walk(root):
        if node.kind == "BINPERSID":
            key, kind, _ = storage_key(node)
            if kind not in SIZES:
                raise UnknownForm(f"it has a storage of the kind {kind}"[:80])
            yield key, SIZES[kind]


def _used_keys(root: Node, known: Mapping[str, object]) -> Iterator[str]:
    """The keys among those that are `known` that a graph still uses, in their order."""
    used = {key for key, _ in _list_storages(root)}
    return (key for key in known if key in used)


def _find_place(places: Mapping[str, Place], storage: Node) -> Place:
    key, _, _ = storage_key(storage)
    if key not in places:
        raise UnknownForm("its numbers are missing")
    return places[key]


def _new_key(used: set[str]) -> str:
    number = len(used)
    while str(number) in used:
        number += 1
    return str(number)


def _payload(storage: Node) -> tuple[Steps, Node, Span]:
    """The bytes of a storage within a pickle: the way to them, their node, and where they lie."""
    if storage.function() != STORAGE:
        raise UnknownForm(f"a storage is made by {storage.function() or storage.kind}")
    arguments_index, arguments = storage.child(1)
    index, data = arguments.child(0)
    if data.data is None:
        raise UnknownForm("a storage has no bytes")
    return ((storage, arguments_index), (arguments, index)), data, data.data


def _require_little(found: tuple[int, Node] | None) -> None:
    if found is not None and (found[1].kind == "NEWFALSE" or found[1].value is False):
        raise UnknownForm("its numbers are big-endian")


@contextmanager
def open_entry(
    archive: zipfile.ZipFile, target: BinaryIO, name: str, size: int, extra: bytes
) -> Iterator[BinaryIO]:
    """Open a new entry, whose bytes begin at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    begin = target.tell() + 30 + len(name.encode()) + len(extra) + 4
    if size * 1.05 > zipfile.ZIP64_LIMIT:
        begin += 20
    padding = -begin % ALIGNMENT
    info.extra = extra + PADDING + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(info, "w") as out:
        yield out  # type: ignore[misc]
