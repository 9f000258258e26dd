"""A YAML spec as a block of lines for each edit.

A change of one block leaves the others alone.

ruamel.yaml is used here and nowhere else. It reads and writes the block of the edit that is
changed, because edits get new keys and lists get new entries, which `editspec_compiler.rewrite`,
a replacement of values in place, does not do.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from editspec.studio.parsed import OFF, parse_once, show_all_edits
from editspec_compiler.document import Document
from editspec_runtime.errors import UsageError

ORDER = (
    "name",
    "layer",
    "layers",
    "rank",
    "source",
    "target",
    "pairs",
    "observe",
    "context",
    "directions",
    "keep",
    "preserve",
    "protect",
    "refine",
    "query",
    "optimise",
    "solver",
)
"""The keys of an edit, in the order in which new keys are inserted."""

ODD_BREAKS = frozenset("\r\x85\u2028\u2029")
"""Line breaks of YAML that are not line breaks of a text editor."""

Item = MutableMapping[str, Any]
Change = Callable[[Item], None]


@dataclass(frozen=True)
class Block:
    """One edit.

    Attributes
    ----------
    above
        The comments and empty lines before it.
    lines
        Its own lines, as if it were on.
    off
        Whether it is switched off.
    """

    above: tuple[str, ...]
    lines: tuple[str, ...]
    off: bool = False

    def to_lines(self) -> list[str]:
        """List the lines of the text."""
        mark = OFF if self.off else ""
        return [*self.above, *(mark + line for line in self.lines)]

    def change(self, change: Change) -> Block:
        """Apply `change` to the edit; the indentation stays."""
        indent = _measure_indent(self.lines[0])
        dedented = [line[min(indent, _measure_indent(line)) :] for line in self.lines]
        items = _load("\n".join(dedented) + "\n")
        change(items[0])
        return replace(self, lines=_indent_lines(_dump(items), indent))


@dataclass(frozen=True)
class SpecBlocks:
    """A YAML spec in blocks.

    Attributes
    ----------
    head
        The lines up to ``edits:``.
    edits
        A block for each edit.
    tail
        The lines after the edits.
    """

    head: tuple[str, ...]
    edits: tuple[Block, ...]
    tail: tuple[str, ...]

    @staticmethod
    def read(text: str, file: str) -> SpecBlocks:
        """Split a text into blocks.

        Raises `SpecError`, and `UsageError` where the text cannot be split.
        """
        whole = show_all_edits(text)
        document = parse_once(whole, file)
        # Line numbers of the parser and of `split` would differ.
        if ODD_BREAKS & set(whole):
            raise UsageError(
                "The spec has line breaks that are not plain ones.", "Change it in the YAML."
            )
        if "edits" not in document.data:
            if isinstance(document.data, dict) and whole.lstrip().startswith("{"):
                raise UsageError("There is no list under edits: to work on.", "Write edits: [].")
            return SpecBlocks.read(text.rstrip("\n") + "\nedits:\n", file)
        edits = document.data["edits"]
        if edits is not None and not isinstance(edits, list):
            raise UsageError("There is no list under edits: to work on.", "Correct it in the YAML.")
        raw, lines = text.split("\n"), whole.split("\n")
        key = document.keys[("edits",)][0] - 1
        if not edits:
            # `edits: []` and `edits:` both become a head that blocks can follow.
            head = (*raw[:key], re.sub(r"(edits\s*:).*", r"\1", raw[key]))
            return SpecBlocks(head, (), tuple(raw[key + 1 :]))
        starts = _find_starts(document, lines, len(edits))
        if starts is None:
            return SpecBlocks.read(_to_block_style(text), file)
        blocks, cursor = [], key + 1
        for start, stop in zip(starts, _find_stops(document, lines, key, starts), strict=True):
            # From `lines`, where an edit that is off has lost its marks.
            above, own = tuple(raw[cursor:start]), tuple(lines[start:stop])
            blocks.append(Block(above, own, raw[start].startswith(OFF)))
            cursor = stop
        return SpecBlocks(tuple(raw[: key + 1]), tuple(blocks), tuple(raw[cursor:]))

    def replace_block(self, number: int, block: Block) -> SpecBlocks:
        """Put `block` in the place of edit `number`."""
        return replace(self, edits=(*self.edits[:number], block, *self.edits[number + 1 :]))

    def append(self, item: dict[str, Any]) -> SpecBlocks:
        """Add an edit behind the others, indented as the first one is."""
        indent = _measure_indent(self.edits[0].lines[0]) if self.edits else 2
        fields = CommentedMap({key: to_flow(value) for key, value in item.items()})
        lines = _indent_lines(_dump(CommentedSeq([fields])), indent)
        return replace(self, edits=(*self.edits, Block((), lines)))

    def remove(self, number: int) -> SpecBlocks:
        """Leave edit `number` out, with the comments above it."""
        return replace(self, edits=self.edits[:number] + self.edits[number + 1 :])

    def move(self, number: int, to: int) -> SpecBlocks:
        """Put edit `number` at place `to`, with the comments above it."""
        edits = list(self.edits)
        edits.insert(to, edits.pop(number))
        return replace(self, edits=tuple(edits))

    def to_text(self) -> str:
        """Join the lines."""
        edits = [line for block in self.edits for line in block.to_lines()]
        return "\n".join([*self.head, *edits, *(self.tail or [""])])


def put_field(item: Item, key: str, value: Any) -> None:
    """Set a key of an edit; a new key goes where it is usually written."""
    flowing = to_flow(value)
    if key in item or not isinstance(item, CommentedMap):
        item[key] = flowing
        return
    earlier_keys = ORDER[: ORDER.index(key)]
    position = sum(1 for present in item if present in earlier_keys)
    item.insert(position, key, flowing)


def put_value(item: Item, key: str, value: Any) -> None:
    """Set a key of an edit; of a list of mappings, only the entries that differ change."""
    old = item.get(key)
    if not isinstance(old, list) or not isinstance(value, list) or not value:
        put_field(item, key, value)
        return
    while len(old) > len(value):
        same = [at for at, entry in enumerate(value) if old[at] == entry]
        # The first entry that is another one is the one that is gone.
        del old[next((at for at in range(len(value)) if at not in same), len(value))]
    for at, entry in enumerate(value):
        if at >= len(old):
            old.append(to_flow(entry))
        elif old[at] != entry:
            old[at] = to_flow(entry)


def to_flow(value: Any) -> Any:
    """Return a value whose mappings are written on one line each.

    A list of mappings gets a line for each of them; any other list is written on one line.
    """
    if isinstance(value, dict):
        made = CommentedMap({name: to_flow(part) for name, part in value.items()})
        made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        entries = CommentedSeq([to_flow(part) for part in value])
        if not any(isinstance(part, dict) for part in value):
            entries.fa.set_flow_style()
        return entries
    return value


def _find_starts(document: Document, lines: list[str], count: int) -> list[int] | None:
    """Find the first line, from 0, of each edit; None where the list is in flow style."""
    starts = []
    for number in range(count):
        start = _find_dash(lines, *document.positions[("edits", number)])
        if start is None:
            return None
        starts.append(start)
    return starts


def _find_stops(document: Document, lines: list[str], key: int, starts: Sequence[int]) -> list[int]:
    """Find the line behind the last one of each edit.

    Comments and empty lines below an edit belong to the next edit.
    """
    top_level = [line - 1 for path, (line, _) in document.keys.items() if len(path) == 1]
    end = min((line for line in top_level if line > key), default=len(lines))
    stops = []
    for stop in [*starts[1:], end]:
        last = stop
        while _is_blank(lines[last - 1]):
            last -= 1
        stops.append(last)
    return stops


def _find_dash(lines: list[str], line: int, column: int) -> int | None:
    """Find the line, from 0, of the dash of an entry; None in flow style."""
    if lines[line - 1][: column - 1].strip() == "-":
        return line - 1
    # The dash may stand on a line of its own, above comments.
    above = line - 2
    while above >= 0 and _is_blank(lines[above]):
        above -= 1
    return above if lines[above].strip() == "-" else None


def _is_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _to_block_style(text: str) -> str:
    """Write edits that are in flow style as blocks."""
    spec = _load(text)
    spec.fa.set_block_style()
    spec["edits"].fa.set_block_style()
    for edit in spec["edits"]:
        edit.fa.set_block_style()
    return _dump(spec)


def _indent_lines(dumped: str, indent: int) -> tuple[str, ...]:
    return tuple(" " * indent + line.removeprefix("  ") for line in dumped.splitlines())


def _measure_indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _load(text: str) -> Any:
    try:
        return _make_yaml().load(text)
    except YAMLError as error:
        # pyyaml has read the whole text, so this part does not stand alone. It may, for instance,
        # refer to an anchor elsewhere.
        raise UsageError(
            "This edit cannot be changed by itself.", "Change it in the YAML."
        ) from error


def _dump(data: Any) -> str:
    buffer = io.StringIO()
    _make_yaml().dump(data, buffer)
    return buffer.getvalue()


def _make_yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    # Wide enough that no line is broken: a break would change lines that nobody has edited.
    yaml.width = 2**20
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
