"""Files of rows, which stand for entries of a list of a spec. Imports no torch.

A row is an entry as the language has it: in ``.jsonl`` one JSON value a line, in ``.json`` the
entries of a list. In ``.csv`` the first row names a key for each column (``target.mask``), and an
empty cell leaves its key out. In ``.txt`` a line is the only text that an entry needs.
"""

from __future__ import annotations

import csv
import io
import json
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from editspec_compiler.document import MAX_BYTES, Document, find_path_problem, kind, parse
from editspec_compiler.problems import SHOWN, Problem, RowPlace, SpecError, SpecPath, suggest
from editspec_compiler.visit import fields_by_key, find_parts
from editspec_runtime.codes import Code
from editspec_runtime.io.json_text import JsonError, parse_json

MOST_ROWS = 100_000
"""The rows that a file may have."""

SPLIT = "split the edit: each row takes about 3.5 kB of memory while a spec is read"
"""The hint for a file that is too long, as measured."""

SPACE = re.compile(r"\s*")

SURROGATE = re.compile("[\ud800-\udfff]")

LINE = re.compile(r"line (\d+)")
"""The number of a line in a message, which counts from the beginning of a row."""

TEXT = ".txt"

FORMATS = (".jsonl", ".json", ".csv", TEXT)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of rows.

    Attributes
    ----------
    message, hint, code
        As of a `Problem`.
    line, column
        Where in the file, from 1; 0 for the file as a whole.
    number
        The row that is wrong, from 0; None where it is all of the file.
    """

    message: str
    hint: str
    line: int = 1
    column: int = 1
    code: Code = Code.ROWS_UNFIT
    number: int | None = None


class RowsError(Exception):
    """A file of which no rows can be read."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True)
class JsonRow:
    """A JSON value: where it begins in its file, from 1, and its own text."""

    line: int
    column: int
    text: str

    @cached_property
    def _document(self) -> Document | None:
        try:
            return parse(self.text, "row.json")
        except SpecError:
            return None

    def place(self, line: int, column: int) -> tuple[int, int]:
        """Return where a place of its own text is in the file."""
        return self.line + line - 1, column + (self.column - 1 if line == 1 else 0)

    def locate(self, path: SpecPath, *, at_key: bool) -> tuple[int, int]:
        """Find a part of the row in the file; of what is not there, what is nearest above it."""
        if self._document is None:
            return self.line, self.column
        return self.place(*self._document.find_place(path, at_key=at_key))


@dataclass(frozen=True)
class TableRow:
    """A row of comma-separated values.

    Attributes
    ----------
    lines
        Its own lines.
    line
        The number of the first of them, from 1.
    columns
        The key of each column, which may lead through mappings.
    """

    lines: Sequence[str]
    line: int
    columns: Sequence[SpecPath]

    def locate(self, path: SpecPath, *, at_key: bool) -> tuple[int, int] | None:
        """Find the cell of a part of the row; None for what no column is about."""
        for index, column in enumerate(self.columns):
            if path[: len(column)] == column:
                return _cell_places(self.lines, self.line)[index]
        return None if path else (self.line, 1)


Row = JsonRow | TableRow


@dataclass
class RowFile:
    """A file of rows as it is read.

    Attributes
    ----------
    name, text
        Its name in the spec, and its text.
    faults
        What is wrong with single rows.
    """

    name: str
    text: str
    faults: list[Fault] = field(default_factory=list)

    @cached_property
    def lines(self) -> list[str]:
        """Its text by lines, without their ends."""
        return [line.rstrip("\r\n") for line in io.StringIO(self.text, newline="")]

    def place(self, line: int, column: int) -> RowPlace:
        """Return a place of the file with its line."""
        shown = self.lines[line - 1] if line <= len(self.lines) else ""
        return RowPlace(self.name, line, column, shown)

    def rows(self, entry: Any) -> Iterator[tuple[int, Row, Any]]:
        """Yield the rows that can be read: their numbers from 0, and what they hold.

        `entry` is the type of the entries that rows stand for. Raises `RowsError`.
        """
        suffix = Path(self.name).suffix.lower()
        if suffix == ".csv":
            return self._table_rows(entry)
        if suffix == TEXT:
            return self._text_rows(_find_text_key(entry, self.name))
        return self._json_rows(self._split_list() if suffix == ".json" else self._split_lines())

    def _note(self, number: int, fault: Fault) -> None:
        """Note what is wrong with a row; of a file with many such rows, the rest is not read."""
        if len(self.faults) == SHOWN:
            raise RowsError(fault)
        self.faults.append(replace(fault, number=number))

    def _require_few(self, number: int) -> None:
        if number == MOST_ROWS:
            message = f"{self.name} has more than {MOST_ROWS} rows, which is the most"
            raise RowsError(Fault(message, SPLIT, code=Code.TEXT_TOO_LARGE))

    def _json_rows(self, rows: Iterator[JsonRow]) -> Iterator[tuple[int, Row, Any]]:
        for number, row in enumerate(rows):
            self._require_few(number)
            try:
                value = _read_json(row.text)
            except JsonError as error:
                self._note(number, _fault_of(row, error))
            else:
                yield number, row, value

    def _text_rows(self, key: str) -> Iterator[tuple[int, Row, Any]]:
        """Yield an entry for each line that is not empty, whose text is that of `key`."""
        filled = [number for number, line in enumerate(self.lines, 1) if line.strip()]
        for number, line in enumerate(filled):
            self._require_few(number)
            text = self.lines[line - 1]
            yield number, TableRow([text], line, [(key,)]), {key: text.strip()}

    def _split_lines(self) -> Iterator[JsonRow]:
        for number, line in enumerate(self.lines, 1):
            if line.strip():
                yield JsonRow(number, 1, line)

    def _split_list(self) -> Iterator[JsonRow]:
        """Yield the entries of a JSON list."""
        whole = JsonRow(1, 1, self.text)
        try:
            content = parse_json(self.text)
        except JsonError as error:
            raise RowsError(_fault_of(whole, error)) from error
        if not isinstance(content, list):
            message = f"expected a list of rows, found {kind(content)}"
            raise RowsError(Fault(message, "put the rows in [ and ]"))
        decoder, text, line, counted = json.JSONDecoder(parse_int=str), self.text, 1, 0
        at = _skip_space(text, text.index("[") + 1)
        while text[at] != "]":
            _, end = decoder.raw_decode(text, at)
            line += text.count("\n", counted, at)
            yield JsonRow(line, at - text.rfind("\n", 0, at), text[at:end])
            at, counted = _skip_space(text, end), at
            if text[at] == ",":
                at = _skip_space(text, at + 1)

    def _table_rows(self, entry: Any) -> Iterator[tuple[int, Row, Any]]:
        lines = list(io.StringIO(self.text, newline=""))
        reader = csv.reader(lines, strict=True)
        columns: list[SpecPath] = []
        kinds: list[set[type]] = []
        begin, number = 1, -1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                hint = 'put a cell with commas, quotes or lines in quotes, and write "" for a quote'
                raise RowsError(Fault("these cells cannot be told apart", hint, begin)) from error
            if cells is None:
                return
            line, begin = begin, reader.line_num + 1
            if not columns:
                columns = self._columns(cells, entry)
                kinds = [set(_plain_types(entry, column)) for column in columns]
                continue
            if not cells:  # an empty line
                continue
            number += 1
            self._require_few(number)
            if len(cells) == len(columns):
                row = TableRow(self.lines[line - 1 : begin - 1], line, columns)
                yield number, row, _join_cells(columns, kinds, cells)
            else:
                message = f"{len(cells)} cells, and the first row names {len(columns)} columns"
                self._note(number, Fault(message, "write a cell for each, or leave it empty", line))

    def _columns(self, names: list[str], entry: Any) -> list[SpecPath]:
        """Read the first row of a table. Raises `RowsError`."""
        found: list[SpecPath] = []
        places = _cell_places(self.lines, 1)
        for name, (line, column) in zip(names, places, strict=False):
            path: SpecPath = tuple(name.strip().split("."))
            if any(path == other[: len(path)] or other == path[: len(other)] for other in found):
                message = f"the column {name.strip()} is here twice, or a part of another"
                raise RowsError(Fault(message, "keep one of the two", line, column))
            if not list(find_parts(entry, path)):
                raise RowsError(self._unknown_column(names, name, (line, column), entry))
            found.append(path)
        return found

    def _unknown_column(
        self, names: list[str], name: str, place: tuple[int, int], entry: Any
    ) -> Fault:
        """Say that there is no such column, or that the first row names none."""
        known = list(_list_columns(entry))
        if len(names) > 1 and not set(known) & {each.strip() for each in names}:
            message = f"the first row names no column of this list: it begins with {name.strip()}"
            hint = f"write the names of the columns into the first row, of {', '.join(known)}"
            return Fault(message, hint, *place, Code.KEY_UNKNOWN)
        message = f"there is no {name.strip() or 'column without a name'} in an entry"
        if ";" in name or "\t" in name:
            hint = f"separate cells by commas; columns of this list: {', '.join(known)}"
        else:
            hint = suggest(name.strip(), known)
        return Fault(message, hint, *place, Code.KEY_UNKNOWN)


@dataclass(frozen=True)
class PlacedRow:
    """A row, and the file that it is in."""

    file: RowFile
    row: Row

    def locate(self, path: SpecPath, *, at_key: bool) -> tuple[RowPlace, bool]:
        """Find a part of the row, and say whether it is of this row and not of all."""
        found = self.row.locate(path, at_key=at_key)
        if found is None:
            return self.file.place(1, 1), False
        return self.file.place(*found), True


def read_rows(name: str, folder: Path) -> RowFile:
    """Open a file of rows that a spec in a folder names. Raises `RowsError`."""
    suffix = Path(name).suffix.lower()
    if problem := find_path_problem(name, folder):
        raise RowsError(Fault(*problem, 0, 0, Code.FILE_UNREADABLE))
    if suffix not in FORMATS:
        message = f"{name} is not a file of rows"
        hint = f"give one that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise RowsError(Fault(message, hint, 0, 0))
    with (folder / name).open("rb") as file:
        raw = file.read(MAX_BYTES + 1)  # never more, whatever the file is
    if len(raw) > MAX_BYTES:
        message = f"{name} has more than {MAX_BYTES} bytes, which is the most"
        raise RowsError(Fault(message, SPLIT, 0, 0, Code.TEXT_TOO_LARGE))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        begun = raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start]
        column = len(begun.decode("utf-8", "replace")) + 1
        message = f"{name} is not UTF-8, from line {line}, column {column} on"
        raise RowsError(
            Fault(message, "save the file as UTF-8", 0, 0, Code.TEXT_NOT_UTF8)
        ) from error
    return RowFile(name, text)


def _find_text_key(entry: Any, name: str) -> str:
    """Find the only key that an entry must have, which is a text.

    Raises `RowsError` where entries are more than a text.
    """
    for part in find_parts(entry, ()):
        if isinstance(part, type) and issubclass(part, BaseModel):
            needed = [key for key, given in fields_by_key(part).items() if given.is_required()]
            if len(needed) == 1 and set(_plain_types(entry, (needed[0],))) == {str}:
                return needed[0]
    message = f"{name} has lines of text, and an entry of this list is more than a text"
    hint = f"give a file that ends in {', '.join(FORMATS[:-2])} or {FORMATS[-2]}"
    raise RowsError(Fault(message, hint, 0, 0))


def _read_json(text: str) -> Any:
    """Read a row. Raises `JsonError`."""
    value = parse_json(text, unique=True)
    # JSON can carry half of a surrogate pair, which no name of a file can.
    if "\\u" in text and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise JsonError("the text holds half of a character")
    return value


def _fault_of(row: JsonRow, error: JsonError) -> Fault:
    """Say what is wrong with a text that is not JSON, as of a spec."""
    try:
        problems: Sequence[Problem] = parse(row.text, "row.json").problems
    except SpecError as found:
        problems = found.problems
    for problem in problems:
        if problem.code != Code.TEXT_NOT_A_MAPPING:
            place = row.place(max(problem.line, 1), max(problem.column, 1))
            message = LINE.sub(
                lambda found: f"line {int(found[1]) + row.line - 1}", problem.message
            )
            return Fault(message, problem.hint, *place, problem.code)
    hint = "write it as an entry of the spec would be, in JSON"
    return Fault(f"{error}", hint, row.line, row.column, Code.TEXT_SYNTAX)


def _skip_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found is not None
    return found.end()


def _cell_places(lines: Sequence[str], first: int) -> list[tuple[int, int]]:
    """Find where the cells of a row begin, which may go over several lines."""
    places, quoted = [(first, 1)], False
    for number, line in enumerate(lines, first):
        for column, character in enumerate(line, 1):
            if character == '"':
                quoted = not quoted
            elif character == "," and not quoted:
                places.append((number, column + 1))
        if not quoted:
            break
    return places


def _join_cells(
    columns: Sequence[SpecPath], kinds: Sequence[set[type]], cells: Sequence[str]
) -> dict[str, Any]:
    """Make an entry of the cells of a row."""
    entry: dict[str, Any] = {}
    for column, types, cell in zip(columns, kinds, cells, strict=True):
        if not cell.strip():
            continue
        holder = entry
        for key in column[:-1]:
            holder = holder.setdefault(str(key), {})
        holder[str(column[-1])] = _read_cell(cell.strip(), types)
    return entry


def _read_cell(cell: str, types: set[type]) -> Any:
    """Read a cell as a value that fits its column, or else as text."""
    if types <= {str}:
        return cell
    try:
        value = parse_json(cell)
    except JsonError:
        try:
            value = parse(f"value: {cell}").data["value"] if cell[0] in "{[" else cell
        except SpecError:
            return cell
    if isinstance(value, dict):
        fits = any(issubclass(each, (dict, BaseModel)) for each in types)
    else:
        fits = type(value) in types or (type(value) is int and float in types)
    return value if fits else cell


def _plain_types(part: Any, path: SpecPath) -> Iterator[type]:
    for found in find_parts(part, path):
        yield typing.get_origin(found) or found


def _list_columns(part: Any) -> list[str]:
    """List the columns that a table of entries of a type may have, without those of parts."""
    columns: dict[str, None] = {}
    for entry in find_parts(part, ()):
        if not (isinstance(entry, type) and issubclass(entry, BaseModel)):
            continue
        for key, described in fields_by_key(entry).items():
            types = list(_plain_types(described.annotation, ()))
            models = [each for each in types if each is not type(None)]
            if all(issubclass(each, BaseModel) for each in models):
                below = [name for each in models for name in fields_by_key(each)]
                columns.update(dict.fromkeys(f"{key}.{name}" for name in below))
            else:
                columns[key] = None
    return list(columns)
