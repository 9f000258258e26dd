"""Reading zip archives that no two readers can understand differently.

Readers of zip differ in which of two entries of one name they take, in what they make of data
around the archive, and in whether they believe an entry's own header or the directory's. A check
by one reader says nothing about another one then. An archive is read here only where all of them
must see the same entries.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from editspec_runtime.errors import FileError

STORED, DEFLATED = 0, 8
DESCRIPTOR = 0x0008
"""The flag of an entry behind whose data its sizes are said again."""

KNOWN_FLAGS = DESCRIPTOR | 0x0800 | 0x0006
"""Besides it: names in UTF-8, and how hard a compressor tried."""

NOTHING: tuple[int, ...] = (0,)
DESCRIPTOR_SIZES = (12, 16, 20, 24)
ENTRIES = 100_000
"""The most entries of an archive."""

EXPANSION = 4
"""How many times as large as its file all that an archive holds may be."""

SLACK = 2**24
"""Bytes that an archive may hold in any case."""


class _Unsound(Exception):
    """An archive that readers may see differently, or that is damaged."""


@dataclass(frozen=True)
class Entry:
    """Where the bytes of an entry lie, how they are packed, and how many there are.

    `extra` are the fields that the directory has about it.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    begin: int
    extra: bytes = b""


class Archive(Mapping[str, bytes]):
    """The entries of an archive by their names; each is read when it is asked for.

    Parameters
    ----------
    path
        The file of the archive, or the one that the archive lies in.
    entries
        The entries by their names.
    data
        The bytes of the archive. Default: they are read from the file.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], data: bytes | None = None) -> None:
        self.path, self.entries, self.data = path, dict(entries), data

    def _open(self) -> BinaryIO:
        return self.path.open("rb") if self.data is None else io.BytesIO(self.data)

    def __getitem__(self, name: str) -> bytes:
        entry = self.entries[name]
        with self._open() as file:
            file.seek(entry.begin)
            data = file.read(entry.packed)
        if entry.method == DEFLATED:
            data = _inflate(data, entry.size)
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise damaged(self.path, f"the content of {entry.name} is not as it was written")
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_archive(path: Path) -> Archive:
    """The entries of a zip archive that every reader sees alike.

    Refused are: names that occur twice, or that are absolute or contain ``..``; encrypted entries;
    data before, between and behind the entries; entries whose own header says something else than
    the directory; and more than `ENTRIES` entries, or `EXPANSION` times the bytes of the file.

    Raises
    ------
    FileError
        The file is missing, damaged, or refused.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            entries = _read_entries(file, size)
    except OSError as error:
        raise FileError(
            f"{path} cannot be read: {error.strerror}.", "Check its name and who may read it."
        ) from error
    except (_Unsound, struct.error, UnicodeDecodeError) as error:
        raise _refusal(path, error) from error
    return _bounded(Archive(path, entries), size)


def read_archive(data: bytes, path: Path) -> Archive:
    """The entries of an archive whose bytes lie in another file, as `open_archive` reads them."""
    try:
        entries = _read_entries(io.BytesIO(data), len(data))
    except (_Unsound, struct.error, UnicodeDecodeError) as error:
        raise _refusal(path, error) from error
    return _bounded(Archive(path, entries, data), len(data))


def _refusal(path: Path, error: Exception) -> FileError:
    reason = str(error) if isinstance(error, _Unsound) else "its directory is damaged"
    return damaged(path, reason)


def _bounded(archive: Archive, size: int) -> Archive:
    """An archive that is not many times as large as its `size` in bytes."""
    total = sum(entry.size for entry in archive.entries.values())
    if total > EXPANSION * size + SLACK:
        raise FileError(
            f"{archive.path} holds {total} bytes in a file of {size}, which is more than "
            f"{EXPANSION} times as much.",
            "Files of torch are not compressed. Unpack it yourself, if you trust it.",
        )
    return archive


def damaged(path: Path, reason: str) -> FileError:
    """The error of an archive that is not read."""
    return FileError(
        f"{path} is not a sound archive: {reason}.",
        "It is damaged, or made to be read differently by different programs. Save it again.",
    )


def _read_entries(file: BinaryIO, size: int) -> dict[str, Entry]:
    begin, end, count = _find_directory(file, size)
    if count > ENTRIES:
        raise _Unsound(f"it has {count} entries, more than {ENTRIES}")
    file.seek(begin)
    directory = file.read(end - begin)
    entries, offsets, at = [], [], 0
    for _ in range(count):
        entry, flags, offset, at = _read_directory_entry(directory, at)
        entries.append(entry)
        offsets.append((offset, flags))
    if at != len(directory):
        raise _Unsound("its directory holds more than its entries")
    _require_names([entry.name for entry in entries])
    found = {}
    expected, slack = 0, NOTHING
    for (offset, flags), entry in sorted(zip(offsets, entries, strict=True), key=_offset):
        if offset - expected not in slack:
            raise _Unsound("there is data before or between its entries")
        data = _require_local_header(file, offset, flags, entry)
        found[entry.name] = replace(entry, begin=data)
        expected = data + entry.packed
        slack = DESCRIPTOR_SIZES if flags & DESCRIPTOR else NOTHING
    if begin - expected not in slack:
        raise _Unsound("there is data between its entries and its directory")
    return found


def _offset(pair: tuple[tuple[int, int], Entry]) -> int:
    return pair[0][0]


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    if size < 22:
        raise _Unsound("it ends too early")
    file.seek(size - 22)
    mark, disk, first, here, count, length, begin, comment = struct.unpack(
        "<4s4H2LH", file.read(22)
    )
    if mark != b"PK\x05\x06" or comment or disk or first or here != count:
        raise _Unsound("its end is damaged, or there is data behind it")
    end = size - 22
    if end >= 76:
        file.seek(end - 20)
        mark, disk, at, disks = struct.unpack("<4sLQL", file.read(20))
        if mark == b"PK\x06\x07":
            if disk or disks > 1 or at != end - 76:
                raise _Unsound("there is data between its directory and its end")
            file.seek(at)
            fields = struct.unpack("<4sQ2H2L4Q", file.read(56))
            wide = fields[6:]
            if fields[0] != b"PK\x06\x06" or fields[1] != 44 or fields[4] or fields[5]:
                raise _Unsound("its end is damaged")
            narrow = (here, count, length, begin)
            for narrow_value, wide_value, limit in zip(
                narrow, wide, (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True
            ):
                if narrow_value not in (wide_value, limit):
                    raise _Unsound("its two ends say different things")
            here, count, length, begin = wide
            end = at
    if here != count or begin + length != end:
        raise _Unsound("there is data between its directory and its end")
    return begin, end, count


def _read_directory_entry(data: bytes, at: int) -> tuple[Entry, int, int, int]:
    """Read an entry of the directory.

    Returns the entry (whose place is not known yet), its flags and offset, and where the next
    entry begins.
    """
    fields = struct.unpack_from("<4s4B4HL2L5H2L", data, at)
    if fields[0] != b"PK\x01\x02":
        raise _Unsound("its directory is damaged")
    flags, method = fields[5:7]
    crc, packed, size, name_length, extra_length, comment_length, disk = fields[9:16]
    offset = fields[18]
    begin = at + 46
    raw = data[begin : begin + name_length]
    extra = data[begin + name_length : begin + name_length + extra_length]
    following = begin + name_length + extra_length + comment_length
    if len(raw) != name_length or len(extra) != extra_length or comment_length or disk:
        raise _Unsound("its directory is damaged")
    if flags & ~KNOWN_FLAGS or method not in (STORED, DEFLATED):
        raise _Unsound("an entry is encrypted, or packed in an unknown way")
    size, packed, offset = _widen(extra, size, packed, offset)
    if method == STORED and size != packed:
        raise _Unsound("an entry has two sizes")
    name = raw.decode("ascii")
    return Entry(name, method, crc, packed, size, -1, extra), flags, offset, following


def _widen(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Read the sizes and the offset of an entry, with those of 64 bits if it has any."""
    values = [size, packed, offset]
    at, seen = 0, False
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            if seen:
                raise _Unsound("an entry says its sizes twice")
            seen, place = True, at + 4
            for number, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    (values[number],) = struct.unpack_from("<Q", extra, place)
                    place += 8
            if place > at + 4 + length:
                raise _Unsound("its directory is damaged")
        at += 4 + length
    return values[0], values[1], values[2]


def _require_names(names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise _Unsound("a name occurs twice")
    for name in names:
        printable = name.isprintable() and "\\" not in name and ":" not in name
        if not printable or name.startswith("/") or ".." in name.split("/"):
            raise _Unsound(f"it has an entry named {name!r:.80}")


def _require_local_header(file: BinaryIO, offset: int, flags: int, entry: Entry) -> int:
    """Find where the data of an entry begin.

    Raises `_Unsound` unless its own header agrees.
    """
    file.seek(offset)
    fields = struct.unpack("<4s2B4HL2L2H", file.read(30))
    mark, own_flags, method = fields[0], fields[3], fields[4]
    crc, packed, size, name_length, extra_length = fields[7:12]
    name = file.read(name_length)
    extra = file.read(extra_length)
    if mark != b"PK\x03\x04" or (name, own_flags, method) != (
        entry.name.encode(),
        flags,
        entry.method,
    ):
        raise _Unsound("the header of an entry says something else than the directory")
    size, packed, _ = _widen(extra, size, packed, 0)
    said, known = (crc, packed, size), (entry.crc, entry.packed, entry.size)
    if said != known and not (flags & DESCRIPTOR and said == (0, 0, 0)):
        raise _Unsound("the header of an entry says something else than the directory")
    return offset + 30 + len(name) + len(extra)


def _inflate(data: bytes, size: int) -> bytes:
    """The unpacked bytes, of which never more than `size` + 1 are made."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return unpacker.decompress(data, size + 1)
    except zlib.error:
        return b""
