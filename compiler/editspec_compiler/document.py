"""Spec text -> plain data, with the position of everything in it.

The text is read by pyyaml's nodes, so that positions survive; scalars follow the core schema of
YAML 1.2, which is also what JSON means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from editspec_compiler.problems import LINE_BREAK, Problem, SpecError, SpecPath
from editspec_runtime.codes import Code
from editspec_runtime.core.fields import FieldProblem
from editspec_runtime.errors import FileError
from editspec_runtime.io.files import require_file

MAX_BYTES = 16 * 2**20
MAX_NODES = 50_000
MAX_DIGITS = 1000
TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """pyyaml's reader with the scalars of YAML 1.2: ``5e-1`` is a number, ``on`` is text, ``010``
    is ten.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - pyyaml's own name
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > 2 * MAX_NODES:  # keys are nodes, too
            raise _TooMany(problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


class _JsonLoader(_CoreLoader):
    """The same for JSON, whose keys may be long and stand on another line than their colon."""

    def stale_possible_simple_keys(self) -> None:
        pass


class _TooMany(yaml.MarkedYAMLError):
    pass


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


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
        The same of every key.
    problems
        What is wrong with the text, where the rest of it could still be read: keys given twice,
        foreign tags.
    """

    file: str
    text: str
    data: Any
    positions: dict[SpecPath, tuple[int, int]]
    keys: dict[SpecPath, tuple[int, int]]
    problems: tuple[Problem, ...] = ()

    def problem(
        self,
        path: SpecPath,
        message: str,
        hint: str = "",
        *,
        code: Code = Code.SPEC,
        at_key: bool = False,
    ) -> Problem:
        """A problem at a path, or at what is nearest above it."""
        near = path
        while near not in self.positions:
            near = near[:-1]
        line, column = self.keys.get(path, self.positions[near]) if at_key else self.positions[near]
        return Problem(message, path, line, column, hint, code)

    def misfit(self, path: SpecPath, found: FieldProblem) -> Problem:
        """A problem of the mapping at a path."""
        where = (*path, *found.path)
        return self.problem(where, found.message, found.hint, code=found.code, at_key=found.at_key)


def read_document(path: Path) -> Document:
    """Read a spec file. Raises `SpecError` where it cannot be read as a mapping at all."""
    name = str(path)
    try:
        require_file(path)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # never more, whatever the file is
    except (FileError, OSError) as error:
        raise SpecError(name, [Problem(str(error), code=Code.FILE_UNREADABLE)]) from error
    if len(raw) > MAX_BYTES:
        message = f"a spec of more than {MAX_BYTES} bytes, which is the most"
        raise SpecError(
            name,
            [Problem(message, hint="keep masks in files of their own", code=Code.TEXT_TOO_LARGE)],
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        message = (
            f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8, and a spec is UTF-8 text"
        )
        raise SpecError(
            name,
            [
                Problem(
                    message, (), line, len(before) - before.rfind(b"\n"), code=Code.TEXT_NOT_UTF8
                )
            ],
        ) from error
    return parse(text, name)


def parse(text: str, file: str = "<spec>") -> Document:
    """Read a spec from its text; a name that ends in ``.json`` must hold JSON.

    Raises `SpecError` where the text cannot be read as a mapping at all.
    """
    if file.endswith(".json"):
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(
                file,
                [
                    Problem(
                        f"not JSON: {error.msg}",
                        (),
                        *_place(text, error.pos),
                        code=Code.TEXT_SYNTAX,
                    )
                ],
                text,
            ) from error
        except RecursionError as error:
            raise SpecError(
                file, [Problem("nested too deeply", code=Code.TEXT_NESTED)], text
            ) from error
    try:
        node = compose(text, file)
        reading = _Reading()
        data = reading.read(node, ()) if node is not None else None
    except RecursionError as error:
        raise SpecError(
            file, [Problem("nested too deeply", code=Code.TEXT_NESTED)], text
        ) from error
    except yaml.YAMLError as error:
        raise SpecError(file, [_syntax_problem(error, text)], text) from error
    if node is None:
        raise SpecError(
            file,
            [
                Problem(
                    "the spec is empty",
                    hint="the least spec has version, model and edits",
                    code=Code.TEXT_EMPTY,
                )
            ],
            text,
        )
    if not isinstance(data, dict):
        found = reading.problems or [
            Problem(
                f"expected a mapping of keys to values, found {kind(data)}",
                (),
                1,
                1,
                code=Code.TEXT_NOT_A_MAPPING,
            )
        ]
        raise SpecError(file, found, text)
    return Document(file, text, data, reading.positions, reading.keys, tuple(reading.problems))


def compose(text: str, file: str) -> yaml.Node | None:
    """The nodes of a text, whose marks say where everything stands; None where it is empty.

    Raises `yaml.YAMLError`.
    """
    as_json = file.endswith(".json")
    # JSON may be indented with tabs, YAML may not; within JSON's strings there are none.
    loader = _JsonLoader(text.replace("\t", " ")) if as_json else _CoreLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def kind(value: Any) -> str:
    """What a plain value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {_shorten(str(value))}"
    if isinstance(value, str):
        return f'the text "{_shorten(value)}"'
    return "a list" if isinstance(value, list) else "a mapping"


def reading_problem(path: Path) -> str:
    """Why a file that a spec names cannot be read, in words; empty where it can."""
    try:
        require_file(path)
    except FileError as error:
        return error.message
    return ""


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


class _Reading:
    """Turns nodes into plain data, keeping positions and problems on the way."""

    def __init__(self) -> None:
        self.positions: dict[SpecPath, tuple[int, int]] = {}
        self.keys: dict[SpecPath, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.open: set[int] = set()
        self.visits = 0

    def read(self, node: yaml.Node, path: SpecPath) -> Any:
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.positions.setdefault(path, place)  # of a key that is here twice, the first counts
        self.visits += 1
        if self.visits > MAX_NODES or id(node) in self.open:
            if self.visits <= MAX_NODES:
                self.problems.append(
                    Problem("an alias that contains itself", path, *place, code=Code.TEXT_ALIAS)
                )
            elif self.visits == MAX_NODES + 1:
                message = f"more than {MAX_NODES} values once aliases are written out"
                self.problems.append(
                    Problem(message, (), *place, "write fewer aliases", Code.TEXT_ALIAS)
                )
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
        tag = node.tag.replace(TAG, "!!")
        self.problems.append(
            Problem(
                f"the tag {tag} is not part of the language",
                path,
                *place,
                "leave the tag out",
                Code.TEXT_TAG,
            )
        )
        return None

    def _read_mapping(self, node: yaml.MappingNode, path: SpecPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if self.visits > MAX_NODES:
                break
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != TAG + "str":
                self.problems.append(
                    Problem(
                        "a key must be text", path, *place, "put it in quotes", Code.KEY_NOT_TEXT
                    )
                )
                continue
            key = _read_text(key_node.value)
            value = self.read(value_node, (*path, key))
            if key in found:
                message = f"the key {key} is here twice; it was first given in line {lines[key]}"
                self.problems.append(Problem(message, (*path, key), *place, code=Code.KEY_TWICE))
                continue
            found[key], lines[key], self.keys[(*path, key)] = value, place[0], place
        return found

    def _read_scalar(self, node: yaml.ScalarNode, path: SpecPath) -> Any:
        try:
            return SCALARS[node.tag](node.value)
        except (ValueError, KeyError):
            place = (node.start_mark.line + 1, node.start_mark.column + 1)
            name = node.tag.removeprefix(TAG)
            self.problems.append(
                Problem(
                    f"{kind(node.value)} is no {name} that can be read",
                    path,
                    *place,
                    code=Code.SCALAR_UNREADABLE,
                )
            )
            return None


def _read_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(text)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _read_float(text: str) -> float:
    # YAML writes .inf and .nan where Python writes inf and nan.
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _read_text(text: str) -> str:
    # JSON writes characters beyond the 16-bit range as two escapes, which pyyaml leaves as two
    # halves.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


SCALARS: dict[str, Callable[[str], Any]] = {
    TAG + "null": lambda text: None,
    TAG + "bool": lambda text: {"true": True, "false": False}[text.lower()],
    TAG + "int": _read_integer,
    TAG + "float": _read_float,
    TAG + "str": _read_text,
}


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if isinstance(error, yaml.reader.ReaderError):
        line, column = _place(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} must not stand in a spec"
        return Problem(
            message, (), line, column, "write it as an escape in double quotes", Code.TEXT_SYNTAX
        )
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    if mark is None:
        return Problem(f"not YAML: {what}", code=Code.TEXT_SYNTAX)
    if isinstance(error, _TooMany):
        return Problem(
            f"more than {MAX_NODES} values",
            (),
            mark.line + 1,
            mark.column + 1,
            "keep vectors in files",
            Code.TEXT_TOO_LARGE,
        )
    if context == "expected a single document in the stream":
        return Problem(
            "a spec is one document, and another begins here",
            (),
            mark.line + 1,
            mark.column + 1,
            code=Code.TEXT_SYNTAX,
        )
    message = f"not YAML: {what}" + (f" ({context})" if context else "")
    return Problem(message, (), mark.line + 1, mark.column + 1, code=Code.TEXT_SYNTAX)


def _place(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of a character."""
    *_, last = lines = LINE_BREAK.split(text[:index])
    return len(lines), len(last) + 1


class _CoreDumper(yaml.SafeDumper):
    """pyyaml's writer with the scalars of YAML 1.2: what it leaves unquoted is read back as what it
    was.
    """

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(data: Any) -> str:
    """Plain data as YAML that `parse` reads back: keys in their order, the innermost mappings on
    one line.
    """
    return yaml.dump(
        data,
        Dumper=_CoreDumper,
        sort_keys=False,
        default_flow_style=None,
        width=120,
        allow_unicode=True,
    )
