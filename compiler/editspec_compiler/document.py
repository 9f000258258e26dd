"""Spec text -> plain data, with the position of everything in it.

The text is read by pyyaml's nodes, so that positions survive; scalars follow the core schema of
YAML 1.2, which is also what JSON means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from editspec_compiler.characters import describe_lookalike, find_at_edge, strip_lookalikes
from editspec_compiler.conflicts import find_conflict
from editspec_compiler.problems import Problem, RowPlace, SpecError, SpecPath
from editspec_compiler.spec_folder import Folder, project_folder
from editspec_compiler.syntax import MAX_NODES, place_of, syntax_problem
from editspec_compiler.yaml_core import SCALAR_WORDS, SCALARS, TAG, compose, find_start, read_text
from editspec_runtime.codes import Code
from editspec_runtime.core.fields import FieldProblem
from editspec_runtime.errors import FileError
from editspec_runtime.io.file_names import find_hint
from editspec_runtime.io.files import require_file

# A spec may come from a stranger, by a pull request or a browser. Whatever it holds, reading it
# takes little time and memory.
MAX_BYTES = 16 * 2**20
MERGE = "<<"
LOCK = ".lock"
"""The ending of a lock, which is read as a spec is."""


class Locatable(Protocol):
    """A part of a spec that stands in a file of its own."""

    def locate(self, path: SpecPath, *, at_key: bool) -> tuple[RowPlace, bool]:
        """Find what is at a path below, and say whether it is of this part and not of all."""


@dataclass(frozen=True)
class Document:
    """A spec as plain data.

    Attributes
    ----------
    file
        Its name, as it was given.
    text
        Its text.
    data
        Dictionaries, lists, text, numbers, truth values and None.
    positions
        Line and column, from 1, of every value, by its path.
    keys
        Line and column, from 1, of every key, by the path of its value.
    problems
        What is wrong with the text, where the rest of it could still be read: keys given twice,
        foreign tags.
    moves
        Where parts stand in the text that have other paths in `data`, as it was written out: for
        each stage of writing out the former path by the present one. What lies below a part moves
        with it.
    rows
        The rows of files that are entries of `data`, by their paths among those of the text.
    """

    file: str
    text: str
    data: Any
    positions: dict[SpecPath, tuple[int, int]]
    keys: dict[SpecPath, tuple[int, int]]
    problems: tuple[Problem, ...] = ()
    moves: tuple[Mapping[SpecPath, SpecPath], ...] = ()
    rows: Mapping[SpecPath, Locatable] = field(default_factory=dict)

    def problem(
        self,
        path: SpecPath,
        message: str,
        hint: str = "",
        *,
        code: Code = Code.SPEC,
        at_key: bool = False,
        warning: bool = False,
    ) -> Problem:
        """Make a problem at a path, or at the nearest place above it that the text has."""
        path = self.find_written(path)
        line, column = self.find_place(path, at_key=at_key)
        row, path = self.find_row(path, at_key=at_key)
        return Problem(message, path, line, column, hint, code, warning, row)

    def find_place(self, path: SpecPath, *, at_key: bool) -> tuple[int, int]:
        """Find line and column, from 1, of a path of the text, or of the nearest one above it."""
        near = path
        while near not in self.positions:
            near = near[:-1]
        found = self.positions[near]
        return self.keys.get(path, found) if at_key else found

    def find_row(self, path: SpecPath, *, at_key: bool) -> tuple[RowPlace | None, SpecPath]:
        """Find the place in a file of rows that a path of the text leads to, if it does."""
        for end in range(len(path), 0, -1) if self.rows else ():
            if (row := self.rows.get(path[:end])) is None:
                continue
            place, of_this_row = row.locate(path[end:], at_key=at_key)
            # What is true of all rows is told once.
            return place, path if of_this_row else (*path[: end - 1], *path[end:])
        return None, path

    def find_written(self, path: SpecPath) -> SpecPath:
        """Find where a part of the data stands in the text."""
        for moves in reversed(self.moves):
            path = _move_back(path, moves)
        return path

    def is_of_row(self, path: SpecPath) -> bool:
        """Tell whether a part of the data stands in a file of rows."""
        written = self.find_written(path)
        return any(written[:end] in self.rows for end in range(len(written) + 1))

    def misfit(self, path: SpecPath, found: FieldProblem) -> Problem:
        """Make a problem of the mapping at a path."""
        where = (*path, *found.path)
        return self.problem(where, found.message, found.hint, code=found.code, at_key=found.at_key)


def _move_back(path: SpecPath, moves: Mapping[SpecPath, SpecPath]) -> SpecPath:
    """Return where a path was before `moves`, by its longest part that was moved."""
    for end in range(len(path), 0, -1):
        before = moves.get(path[:end])
        if before is not None:
            return (*before, *path[end:])
    return path


def read_document(path: Path) -> Document:
    """Read a spec file.

    Raises `SpecError` where it cannot be read as a mapping at all.
    """
    name = str(path)
    try:
        require_file(path)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # never more, whatever the file is
    except (FileError, OSError) as error:
        raise SpecError(name, [_unreadable(path, error)]) from error
    if len(raw) > MAX_BYTES:
        message = f"a spec of more than {MAX_BYTES} bytes, which is the most"
        hint = "keep masks in files of their own"
        raise SpecError(name, [Problem(message, hint=hint, code=Code.TEXT_TOO_LARGE)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(name, [_encoding_problem(raw, error.start)]) from error
    return parse(text, name)


def _unreadable(path: Path, error: FileError | OSError) -> Problem:
    if isinstance(error, FileError):
        hint = error.hint or "give the path of a file that you may read"
        return Problem(error.message, hint=hint, code=Code.FILE_UNREADABLE)
    hint = "give the path of a file that you may read"
    return Problem(f"{path} cannot be read", hint=hint, code=Code.FILE_UNREADABLE)


def _encoding_problem(raw: bytes, index: int) -> Problem:
    """Say which byte of a spec is not UTF-8, and where it is."""
    before = raw[:index]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    message = f"byte {index} (0x{raw[index]:02x}) is not UTF-8, and a spec is UTF-8 text"
    return Problem(message, (), line, column, "save the file as UTF-8", Code.TEXT_NOT_UTF8)


def parse(text: str, file: str = "<spec>") -> Document:
    """Read a spec from its text; a name that ends in ``.json`` must hold JSON.

    Raises `SpecError` where the text cannot be read as a mapping at all.
    """
    if conflict := find_conflict(text, file):
        raise SpecError(file, [conflict], text)
    if file.endswith(".json"):
        _require_json(text, file)
    try:
        node = compose(text, file)
        reading = _Reading()
        data = reading.read(node, ()) if node is not None else None
    except RecursionError as error:
        raise SpecError(file, [_nesting_problem()], text) from error
    except yaml.YAMLError as error:
        raise SpecError(file, [syntax_problem(error, text)], text) from error
    if node is None:
        raise SpecError(file, [_emptiness_problem(file)], text)
    if not isinstance(data, dict):
        message = f"expected a mapping of keys to values, found {kind(data)}"
        hint = "begin with a key and its value, such as version: 1"
        if file.endswith(LOCK):
            hint = "remove the lock and build again, or take it from git"
        problem = Problem(message, (), 1, 1, hint, Code.TEXT_NOT_A_MAPPING)
        raise SpecError(file, reading.problems or [problem], text)
    return Document(file, text, data, reading.positions, reading.keys, tuple(reading.problems))


def _require_json(text: str, file: str) -> None:
    """Raise `SpecError` where a text is not JSON.

    The text is read as YAML afterwards, which takes more than JSON and tells where things stand.
    """
    try:
        # Numbers are read with the YAML, which says where one is too long.
        json.loads(text, parse_int=str)
    except json.JSONDecodeError as error:
        line, column = place_of(text, _find_fault(text, error.pos))
        message = "from here on, the text is not JSON"
        hint = (
            "JSON has double quotes around every key and text, commas between entries and none "
            "behind the last"
        )
        problem = Problem(message, (), line, column, hint, Code.TEXT_SYNTAX)
        raise SpecError(file, [problem], text) from error
    except RecursionError as error:
        raise SpecError(file, [_nesting_problem()], text) from error


def _find_fault(text: str, place: int) -> int:
    """Find where a text stops to be JSON, from where Python says so.

    Of a comma behind the last entry, some versions name the comma, and others what follows it.
    """
    before = text[:place].rstrip()
    closes = text[place : place + 1] in ("}", "]")
    return len(before) - 1 if closes and before.endswith(",") else place


def _emptiness_problem(file: str) -> Problem:
    message, hint = "the spec is empty", "the least spec has version, model and edits"
    if file.endswith(LOCK):
        message, hint = "the lock is empty", "remove it and build again, or take it from git"
    return Problem(message, hint=hint, code=Code.TEXT_EMPTY)


def _nesting_problem() -> Problem:
    hint = "write lists and mappings with fewer levels"
    return Problem("nested too deeply", hint=hint, code=Code.TEXT_NESTED)


def entries(data: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list at a key of plain data; empty where there is none."""
    found = data.get(key)
    return found if isinstance(found, list) else []


def kind(value: Any) -> str:
    """Describe a plain value in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {_shorten(str(value))}"
    if isinstance(value, str):
        return f'the text "{_shorten(value)}"'
    return "a list" if isinstance(value, list) else "a mapping"


def find_path_problem(name: str, folder: Folder) -> tuple[str, str] | None:
    """Find why a file that a spec names cannot be read.

    Parameters
    ----------
    name
        The name in the spec.
    folder
        What it is relative to.

    Returns
    -------
    tuple
        One sentence that says what is wrong, and a hint; None where the file can be read.
    """
    path = folder / name
    try:
        require_file(path)
    except FileError as error:
        relative = "paths are relative to the spec"
        # A path raises where its name is too long.
        is_folder = os.path.isdir(path)  # noqa: PTH112
        hint = "" if is_folder else find_hint(name, project_folder(folder))
        if hint.startswith("did you mean"):
            hint = f"{hint} {relative}"
        return error.message, hint or relative
    return None


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


class _Reading:
    """Turns nodes into plain data, keeping positions and problems on the way."""

    def __init__(self) -> None:
        self.positions: dict[SpecPath, tuple[int, int]] = {}
        self.keys: dict[SpecPath, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.open: set[int] = set()  # the nodes that are being read, by id
        self.visits = 0

    def read(self, node: yaml.Node, path: SpecPath) -> Any:
        """Read a node and all below it; what cannot be read is None, and a problem."""
        place = find_start(node)
        self.positions.setdefault(path, place)  # of a key that is here twice, the first counts
        self.visits += 1
        # Aliases make a small text stand for any number of values: what is visited is counted, and
        # not what is written.
        if self.visits > MAX_NODES:
            if self.visits == MAX_NODES + 1:
                message = f"more than {MAX_NODES} values once aliases are written out"
                self._problem((), place, message, "write fewer aliases", Code.TEXT_ALIAS)
            return None
        if id(node) in self.open:
            message, hint = "an alias that contains itself", "write out what is meant in its place"
            self._problem(path, place, message, hint, Code.TEXT_ALIAS)
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
                return self._read_mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
                return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode) and node.tag in SCALARS:
                return self._read_scalar(node, path)
        finally:
            self.open.discard(id(node))
        message = f"the tag {node.tag.replace(TAG, '!!')} is not part of the language"
        self._problem(path, place, message, "leave the tag out", Code.TEXT_TAG)
        return None

    def _problem(
        self, path: SpecPath, place: tuple[int, int], message: str, hint: str, code: Code
    ) -> None:
        self.problems.append(Problem(message, path, *place, hint, code))

    def _read_mapping(self, node: yaml.MappingNode, path: SpecPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = find_start(key_node)
            if self.visits > MAX_NODES:
                break
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != TAG + "str":
                self._problem(
                    path, place, "a key must be text", "put it in quotes", Code.KEY_NOT_TEXT
                )
                continue
            key = read_text(key_node.value)
            if key == MERGE and key_node.style is None:
                self._refuse_merge((*path, key), place)
                continue
            if key_node.style is None and strip_lookalikes(key) != key:
                self._refuse_lookalike(key_node, (*path, strip_lookalikes(key)))
                key = strip_lookalikes(key)
            value = self.read(value_node, (*path, key))
            if key in found:
                message = f"the key {key} is here twice; it was first given in line {lines[key]}"
                self._problem((*path, key), place, message, "keep one of the two", Code.KEY_TWICE)
                continue
            found[key], lines[key], self.keys[(*path, key)] = value, place[0], place
        return found

    def _refuse_merge(self, path: SpecPath, place: tuple[int, int]) -> None:
        """Say that merge keys are not part of the language."""
        message = "merge keys (<<) are not part of the language"
        hint = "write the keys out where they are meant; a value alone may be an alias"
        self._problem(path[:-1], place, message, hint, Code.KEY_MERGED)

    def _refuse_lookalike(self, node: yaml.ScalarNode, path: SpecPath) -> None:
        """Say that a text without quotes begins or ends with a character that is another."""
        at = find_at_edge(node.value)
        assert at is not None
        line, column = find_start(node)
        # A text of one line stands as it is read.
        if node.end_mark.line == node.start_mark.line:
            column += at
        message, hint = describe_lookalike(node.value[at])
        self._problem(path, (line, column), message, hint, Code.TEXT_LOOKALIKE)

    def _read_scalar(self, node: yaml.ScalarNode, path: SpecPath) -> Any:
        text = node.value
        if node.style is None and strip_lookalikes(text) != text:
            self._refuse_lookalike(node, path)
            text = strip_lookalikes(text)
        try:
            return SCALARS[node.tag](text)
        except (ValueError, KeyError):
            message = f"{kind(node.value)} is not {SCALAR_WORDS[node.tag]} that can be read"
            hint = "leave the tag out, or write a shorter number"
            self._problem(path, find_start(node), message, hint, Code.SCALAR_UNREADABLE)
            return None
