"""Changes of a spec's text that keep its comments, its order and all that they do not touch.

An edit of a YAML spec is a block of lines. Edits are moved, removed and switched off as blocks;
what is inside of one is changed by ruamel.yaml, in that block alone. An edit that is switched off
stays where it is, as lines of comment that begin with `OFF`: a build does not see it, and the
studio can switch it on again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from editspec_compiler.document import parse
from editspec_runtime.errors import UsageError

OFF = "# off: "
"""What the lines of an edit that is switched off begin with."""

ORDER = (
    "name",
    "layer",
    "rank",
    "source",
    "target",
    "pairs",
    "observe",
    "context",
    "directions",
    "query",
    "solver",
)
"""The keys of an edit in the order in which new ones are put."""

Item = MutableMapping[str, Any]


def unfolded(text: str) -> str:
    """The text with the edits that are switched off as if they were on; the lines keep their
    numbers.
    """
    return re.sub(f"^{OFF}", "", text, flags=re.MULTILINE)


def switched_off(text: str, line: int) -> bool:
    """Whether the edit that begins in a line (from 1) is switched off."""
    return text.split("\n")[line - 1].startswith(OFF)


def changed(text: str, file: str, number: int, change: Callable[[Item], None]) -> str:
    """The text with `change` made to edit `number`. Raises `SpecError` or `UsageError` where that
    cannot be done.
    """
    if _is_json(file):
        return _with_json(text, file, lambda edits: change(edits[number]))
    parts = _Parts.of(text)
    block = parts.edits[number]
    return parts.with_edit(number, replace(block, lines=_rewritten(block.lines, change))).text()


def added(text: str, file: str, item: dict[str, Any]) -> str:
    """The text with one more edit at the end. Raises as `changed` does."""
    if _is_json(file):
        return _with_json(text, file, lambda edits: edits.append(item))
    parts = _Parts.of(text)
    indent = _indent(parts.edits[0].lines[0]) if parts.edits else 2
    block = _Block((), _placed(_dumped(CommentedSeq([_item(CommentedMap(item))])), indent))
    return replace(parts, edits=(*parts.edits, block)).text()


def removed(text: str, file: str, number: int) -> str:
    """The text without edit `number`. Raises as `changed` does."""
    if _is_json(file):
        return _with_json(text, file, lambda edits: edits.pop(number))
    parts = _Parts.of(text)
    return replace(parts, edits=parts.edits[:number] + parts.edits[number + 1 :]).text()


def moved(text: str, file: str, number: int, to: int) -> str:
    """The text with edit `number` at place `to`. Raises as `changed` does."""
    if _is_json(file):
        return _with_json(text, file, lambda edits: edits.insert(to, edits.pop(number)))
    parts = _Parts.of(text)
    edits = list(parts.edits)
    edits.insert(to, edits.pop(number))
    return replace(parts, edits=tuple(edits)).text()


def switched(text: str, file: str, number: int, *, off: bool) -> str:
    """The text with edit `number` switched off or on. Raises as `changed` does, and for JSON, which
    has no comments.
    """
    if _is_json(file):
        raise UsageError(
            "An edit of a JSON spec cannot be switched off: JSON has no comments.",
            "Use a YAML spec.",
        )
    parts = _Parts.of(text)
    return parts.with_edit(number, replace(parts.edits[number], off=off)).text()


def put(item: Item, key: str, value: Any) -> None:
    """Set a key of an edit; a new one goes where it is usually written."""
    flowing = in_flow(value)
    if key in item or not isinstance(item, CommentedMap):
        item[key] = flowing
        return
    before = ORDER[: ORDER.index(key)]
    item.insert(sum(1 for present in item if present in before), key, flowing)


def replace_masks(text: str, file: str, named: dict[str, str]) -> str:
    """The text with masks that are data URLs written as the files that `named` has for them."""
    for url, name in named.items():
        for quoted in (json.dumps(url), f"'{url}'", url):
            text = text.replace(quoted, json.dumps(name) if _is_json(file) else name)
    return text


@dataclass(frozen=True)
class _Block:
    """One edit: the comments above it, its lines as if it were on, and whether it is off."""

    above: tuple[str, ...]
    lines: tuple[str, ...]
    off: bool = False

    def written(self) -> list[str]:
        return [*self.above, *(OFF + line if self.off else line for line in self.lines)]


@dataclass(frozen=True)
class _Parts:
    """A YAML spec: its lines up to ``edits:``, its edits, and the lines after them."""

    head: tuple[str, ...]
    edits: tuple[_Block, ...]
    tail: tuple[str, ...]

    @staticmethod
    def of(text: str) -> _Parts:
        whole = unfolded(text)
        document = parse(whole)
        if set(whole) & set("\r\x85\u2028\u2029"):
            raise UsageError(
                "The spec has line breaks that are not plain ones.", "Change it in the YAML."
            )
        edits = document.data.get("edits", 0)
        if edits is not None and not isinstance(edits, list):
            raise UsageError("There is no list under edits: to work on.", "Correct it in the YAML.")
        raw, lines = text.split("\n"), whole.split("\n")
        key = document.keys[("edits",)][0] - 1
        if not edits:
            head = (*raw[:key], re.sub(r"(edits\s*:).*", r"\1", raw[key]))
            return _Parts(head, (), tuple(raw[key + 1 :]))
        starts = [
            _dash(lines, *document.positions[("edits", number)]) for number in range(len(edits))
        ]
        if None in starts:
            return _Parts.of(_in_blocks(text))
        later = [
            line - 1
            for path, (line, _) in document.keys.items()
            if len(path) == 1 and line - 1 > key
        ]
        stops = [*starts[1:], min(later, default=len(lines))]
        blocks, cursor = [], key + 1
        for start, stop in zip(starts, stops, strict=True):
            assert start is not None
            assert stop is not None
            while not lines[stop - 1].strip() or lines[stop - 1].lstrip().startswith("#"):
                stop -= 1
            blocks.append(
                _Block(
                    tuple(raw[cursor:start]), tuple(lines[start:stop]), raw[start].startswith(OFF)
                )
            )
            cursor = stop
        return _Parts(tuple(raw[: key + 1]), tuple(blocks), tuple(raw[cursor:]))

    def with_edit(self, number: int, block: _Block) -> _Parts:
        return replace(self, edits=(*self.edits[:number], block, *self.edits[number + 1 :]))

    def text(self) -> str:
        edits = [line for block in self.edits for line in block.written()]
        return "\n".join([*self.head, *edits, *(self.tail or [""])])


def _dash(lines: list[str], line: int, column: int) -> int | None:
    """The line, from 0, of the dash of an entry that stands at a place; None where the list is in
    flow style.
    """
    if lines[line - 1][: column - 1].strip() == "-":
        return line - 1
    above = line - 2
    while above >= 0 and (not lines[above].strip() or lines[above].lstrip().startswith("#")):
        above -= 1
    return above if lines[above].strip() == "-" else None


def _in_blocks(text: str) -> str:
    """The same spec with its edits, which were in flow style, as blocks."""
    spec = _loaded(text)
    spec.fa.set_block_style()
    spec["edits"].fa.set_block_style()
    for edit in spec["edits"]:
        edit.fa.set_block_style()
    return _dumped(spec)


def _rewritten(lines: tuple[str, ...], change: Callable[[Item], None]) -> tuple[str, ...]:
    """The lines of one edit after a change of it, as far to the right as they were."""
    indent = _indent(lines[0])
    items = _loaded("\n".join(line[min(indent, _indent(line)) :] for line in lines) + "\n")
    change(items[0])
    return _placed(_dumped(items), indent)


def _placed(dumped: str, indent: int) -> tuple[str, ...]:
    return tuple(" " * indent + line.removeprefix("  ") for line in dumped.splitlines())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _loaded(text: str) -> Any:
    try:
        return _yaml().load(text)
    except YAMLError as error:
        # An anchor that stands elsewhere, say: pyyaml has read the whole, and this part of it does
        # not stand alone.
        raise UsageError(
            "This edit cannot be changed by itself.", "Change it in the YAML."
        ) from error


def _dumped(data: Any) -> str:
    buffer = io.StringIO()
    _yaml().dump(data, buffer)
    return buffer.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 2**20
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _item(item: CommentedMap) -> CommentedMap:
    for key, value in item.items():
        item[key] = in_flow(value)
    return item


def in_flow(value: Any) -> Any:
    """A value whose mappings are written on one line; lists of mappings get a line for each."""
    if isinstance(value, dict):
        made = CommentedMap({name: in_flow(part) for name, part in value.items()})
        made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        entries = CommentedSeq([in_flow(part) for part in value])
        if not any(isinstance(part, dict) for part in value):
            entries.fa.set_flow_style()
        return entries
    return value


def _is_json(file: str) -> bool:
    return file.endswith(".json")


def _with_json(text: str, file: str, change: Callable[[list[Any]], object]) -> str:
    parse(text, file)
    data = json.loads(text)
    if not isinstance(data.setdefault("edits", []), list):
        raise UsageError("There is no list under edits to work on.", "Correct it in the JSON.")
    change(data["edits"])
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
