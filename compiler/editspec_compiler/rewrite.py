"""Change values in the text of a spec, and keep its layout and comments.

This is the one way to change a spec's text. It works on YAML and on JSON, however they are
indented. What it gives is read again: it holds exactly the changes, or an error is raised.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from editspec_compiler.document import parse
from editspec_compiler.problems import SpecError, SpecPath
from editspec_compiler.yaml_core import compose
from editspec_runtime.codes import Code
from editspec_runtime.errors import UsageError

PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
"""Text that needs no quotes in YAML, unless it reads as a number or a word of YAML."""


class RewriteError(UsageError):
    """Text that cannot be changed at one place alone, such as a shared value."""

    code = Code.REWRITE_UNFIT


@dataclass(frozen=True)
class Put:
    """Value that goes to a place of a spec.

    Attributes
    ----------
    path
        Where: an entry of a list that is there, or a key, new or not, of a mapping that is there.
    value
        Plain data.
    instead_of
        Keys of the same mapping that go, as this one takes their place.
    after
        The key behind which a new one goes; None: behind the last.
    short
        The key that a bare value in place of the mapping is short for: ``method`` makes
        ``{method: NAME, …}`` of ``NAME``. Empty where there is no such short form.
    entries
        Whether a list that is new has a line for each of its entries.
    """

    path: SpecPath
    value: Any
    instead_of: tuple[str, ...] = ()
    after: str | None = None
    short: str = ""
    entries: bool = False


@dataclass(frozen=True)
class Cut:
    """Key of a mapping that goes, with its value and what is said behind it on its line."""

    path: SpecPath


def rewrite(text: str, file: str, puts: Sequence[Put | Cut]) -> str:
    """Put every value of `puts` at its place in the text of a spec, and cut what goes.

    Parameters
    ----------
    text
        A spec that can be read.
    file
        Its name, which tells JSON from YAML.
    puts
        The changes; no two of the same place, and no two cuts of keys that follow each other.

    Raises
    ------
    RewriteError
        The text does not let exactly these values be changed.
    """
    wanted = copy.deepcopy(parse(text, file).data)
    try:
        for put in puts:
            _put(wanted, put)
        writer = _Writer(text, file)
        # A set: where aliases give two paths one node, both changes are the same piece of text.
        pieces = {writer.piece(put) for put in puts}
        changed = _replace(text, pieces)
        # Whatever went wrong on the way, no other change of the spec than the wanted one gets out.
        if parse(changed, file).data == wanted:
            return changed
    except (yaml.YAMLError, SpecError, LookupError, TypeError):
        pass
    raise RewriteError(
        f"{file} does not let these values be changed by themselves.",
        "Write them out where aliases, merges or multi-line text stand for them, or edit the file.",
    )


def node_at(root: yaml.Node | None, path: Sequence[str | int]) -> yaml.Node | None:
    """Find the node at a path below another; None where there is none."""
    node = root
    for part in path:
        node = _child(node, part)
    return node


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(part, int) and isinstance(node, yaml.SequenceNode):
        return node.value[part] if part < len(node.value) else None
    if isinstance(part, str) and isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                found: yaml.Node = value
                return found
    return None


_Piece = tuple[int, int, str]
"""A piece of a text: where it begins, where it ends, and what stands there instead."""


def _replace(text: str, pieces: Iterable[_Piece]) -> str:
    # From the end, so that the places of the pieces before stay right.
    for begin, end, words in sorted(pieces, reverse=True):
        text = text[:begin] + words + text[end:]
    return text


def _put(data: Any, put: Put | Cut) -> None:
    """Make the change in plain data."""
    *above, last = put.path
    holder, owner = data, None
    for part in above:
        holder, owner = holder[part], holder
    if isinstance(put, Cut):
        del holder[last]
        return
    # A bare value, such as a method's name, becomes the mapping that it is short for.
    if put.short and not isinstance(holder, dict):
        holder = {put.short: holder}
        owner[above[-1]] = holder  # type: ignore[index]
    for key in put.instead_of:
        holder.pop(key, None)
    holder[last] = put.value


class _Writer:
    """Finder of the pieces of a text that changes touch."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.as_json = file.endswith(".json")
        self.root = compose(text, file)

    def piece(self, put: Put | Cut) -> _Piece:
        """Return the piece of text that makes a change."""
        holder, key = node_at(self.root, put.path[:-1]), str(put.path[-1])
        if isinstance(put, Cut):
            return self._cut(holder, key)
        node = node_at(self.root, put.path)
        if node is not None:
            return self._over(node, put.value)
        words = self._value(put.value)
        if put.entries and isinstance(holder, yaml.MappingNode):
            words = self._lines(holder, put.value)
        setting = f"{self._key(key)}: {words}"
        if isinstance(holder, yaml.ScalarNode) and put.short:
            begin, end = holder.start_mark.index, holder.end_mark.index
            whole = f"{{{self._key(put.short)}: {self.text[begin:end]}, {setting}}}"
            return begin, end, whole
        if not isinstance(holder, yaml.MappingNode):
            raise LookupError(put.path)
        for known, value in holder.value:
            if known.value in put.instead_of:
                return known.start_mark.index, _end(value), setting
        return self._insert(holder, setting, put.after)

    def _over(self, node: yaml.Node, value: Any) -> _Piece:
        begin, end = node.start_mark.index, _end(node)
        # Whoever put a value in quotes keeps them.
        quoted = isinstance(node, yaml.ScalarNode) and bool(node.style)
        words = json.dumps(value, ensure_ascii=False) if quoted else self._value(value)
        if begin == end:  # `key:` alone, whose value is null
            words = f" {words}"
        return begin, end, words

    def _insert(self, holder: yaml.MappingNode, setting: str, after: str | None) -> _Piece:
        if not holder.value:
            inside = holder.start_mark.index + 1
            return inside, inside, setting
        named = (pair for pair in holder.value if pair[0].value == after)
        key, value = next(named, holder.value[-1])
        end = _end(value)
        line_begin = self.text.rfind("\n", 0, key.start_mark.index) + 1
        before = self.text[line_begin : key.start_mark.index]
        if holder.flow_style:
            glue = f", {setting}"
            if not before.strip():  # a line for every key
                glue = f",{self._newline()}{before}{setting}"
            return end, end, glue
        # In block style, on a line of its own, behind a comment at the end of the line before.
        line = end + len(self.text[end:].partition("\n")[0].rstrip("\r"))
        indent = " " * holder.value[0][0].start_mark.column
        return line, line, f"{self._newline()}{indent}{setting}"

    def _cut(self, holder: yaml.Node | None, name: str) -> _Piece:
        """Return the piece of text that a key and its value are."""
        if not isinstance(holder, yaml.MappingNode):
            raise LookupError(name)
        names = [key.value for key, _ in holder.value]
        at = names.index(name) if name in names else -1
        if at < 0:
            raise LookupError(name)
        key, value = holder.value[at]
        begin, end = key.start_mark.index, _end(value)
        line_begin = self.text.rfind("\n", 0, begin) + 1
        if not holder.flow_style and not self.text[line_begin:begin].strip():
            rest = self.text[end:].partition("\n")
            return line_begin, end + len(rest[0]) + len(rest[1]), ""
        if at + 1 < len(holder.value):
            return begin, holder.value[at + 1][0].start_mark.index, ""
        if at:
            return _end(holder.value[at - 1][1]), end, ""
        return begin, end, ""

    def _lines(self, holder: yaml.MappingNode, entries: list[Any]) -> str:
        """Write a list with a line for each entry."""
        indent = " " * (holder.value[0][0].start_mark.column + 2) if holder.value else "  "
        glue = f",{self._newline()}{indent}"
        inside = glue.join(self._value(entry) for entry in entries)
        return f"[{self._newline()}{indent}{inside}{self._newline()}{indent[2:]}]"

    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    def _key(self, name: str) -> str:
        return json.dumps(name) if self.as_json else name

    def _value(self, value: Any) -> str:
        if self.as_json:
            return json.dumps(value, ensure_ascii=False)
        # In brackets, which fit any indentation.
        if isinstance(value, dict):
            fields = (f"{self._key(name)}: {self._value(part)}" for name, part in value.items())
            return f"{{{', '.join(fields)}}}"
        if isinstance(value, list):
            return f"[{', '.join(self._value(part) for part in value)}]"
        if isinstance(value, str) and PLAIN.fullmatch(value) and _is_text(value):
            return value
        return json.dumps(value, ensure_ascii=False)


def _is_text(plain: str) -> bool:
    """Return whether YAML reads a plain scalar as text, and not as a number, say."""
    return bool(parse(f"value: {plain}").data["value"] == plain)


def _end(node: yaml.Node) -> int:
    """Find the end of a node in the text."""
    # pyyaml lets a mapping in block style end where the next thing begins, behind comments.
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    end: int = node.end_mark.index
    return end
