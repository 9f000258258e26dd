"""The reader and the writer of pyyaml, with the scalars of YAML 1.2."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from editspec_compiler.separators import TabLoader
from editspec_compiler.syntax import MAX_NODES, TooMany

TAG = "tag:yaml.org,2002:"

MAX_DIGITS = 1000
"""The digits that an integer may have: the time to read one grows with their square."""


class _CoreLoader(TabLoader):
    """The reader of pyyaml with the scalars of YAML 1.2.

    ``5e-1`` is a number, ``on`` is text, ``010`` is ten.
    """

    # Empty, so that no rule of YAML 1.1 is inherited. The name is that of pyyaml.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as pyyaml does, and count it."""
        self.nodes += 1
        # Counted while the text is read: a text of many nodes is refused before it fills memory.
        if self.nodes > 2 * MAX_NODES:  # keys are nodes, too
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise TooMany(problem_mark=mark)
        return super().compose_node(parent, index)


class _JsonLoader(_CoreLoader):
    """The reader of JSON, whose keys may be long and lie lines before their colon."""

    def stale_possible_simple_keys(self) -> None:
        """Keep every possible key, which pyyaml drops after a line or 1024 characters."""


# The core schema of YAML 1.2: a scalar without quotes is of the first kind whose pattern fits.
# pyyaml looks patterns up by the first character of the scalar.
_FLOAT = (
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


def compose(text: str, file: str) -> yaml.Node | None:
    """Return the nodes of a text, whose marks say where everything stands.

    An empty text has none. Raises `yaml.YAMLError`.
    """
    as_json = file.endswith(".json")
    # JSON may be indented with tabs, YAML may not; within JSON's strings there are none.
    loader = _JsonLoader(text.replace("\t", " ")) if as_json else _CoreLoader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def find_start(node: yaml.Node) -> tuple[int, int]:
    """Return the line and column, from 1, where a node begins."""
    return node.start_mark.line + 1, node.start_mark.column + 1


def _read_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(text)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _read_float(text: str) -> float:
    # YAML writes .inf and .nan where Python writes inf and nan.
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def read_text(text: str) -> str:
    """Return the text that a scalar of the text stands for."""
    # JSON writes characters beyond the 16-bit range as two escapes, which pyyaml leaves as two
    # halves.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


SCALARS: dict[str, Callable[[str], Any]] = {
    TAG + "null": lambda text: None,
    TAG + "bool": lambda text: {"true": True, "false": False}[text.lower()],
    TAG + "int": _read_integer,
    TAG + "float": _read_float,
    TAG + "str": read_text,
}


SCALAR_WORDS = {
    TAG + "null": "a null",
    TAG + "bool": "a truth value",
    TAG + "int": "a whole number",
    TAG + "float": "a number",
    TAG + "str": "text",
}
"""The kinds of scalars in words, by their tags."""


class _CoreDumper(yaml.SafeDumper):
    """The writer of pyyaml with the scalars of YAML 1.2.

    What it leaves without quotes is read back as what it was.
    """

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out, even where two places share one object."""
        return True


def dump(data: Any) -> str:
    """Write plain data as YAML that is read back.

    Keys keep their order. The innermost mappings are on one line.
    """
    return yaml.dump(
        data,
        Dumper=_CoreDumper,
        sort_keys=False,
        default_flow_style=None,
        width=120,
        allow_unicode=True,
    )
