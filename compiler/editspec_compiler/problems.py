"""Everything that is wrong with a spec, at once and in place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from editspec_runtime.codes import Code

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Where YAML begins a new line: a little more than `\\n`, and less than `str.splitlines`."""

SpecPath = tuple[str | int, ...]
"""A place in a spec: keys and indices from the top, such as ``("edits", 0, "mask")``."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes
    ----------
    message
        What is wrong, and what was expected.
    path
        Where in the spec; empty for the whole of it.
    line, column
        Where in the text, from 1; 0 where it has no place in the text.
    hint
        What to do about it, or what was meant.
    code
        The kind of problem, which never changes its meaning.
    """

    message: str
    path: SpecPath = ()
    line: int = 0
    column: int = 0
    hint: str = ""
    code: Code = Code.SPEC


class SpecError(Exception):
    """A spec that cannot be used as it is.

    Parameters
    ----------
    file
        Its name, as it was given.
    problems
        All that is wrong.
    text
        The text of the spec, whose lines are shown.
    """

    def __init__(self, file: str, problems: Iterable[Problem], text: str = "") -> None:
        self.file = file
        self.problems = sorted(
            set(problems), key=lambda problem: (problem.line, problem.column, problem.message)
        )
        self.text = text
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = LINE_BREAK.split(self.text) if self.text else []
        return "\n".join(self._render(problem, lines) for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """The problems as plain values."""
        problems = [
            asdict(problem) | {"path": path_text(problem.path), "code": str(problem.code)}
            for problem in self.problems
        ]
        return {"file": self.file, "problems": problems}

    def _render(self, problem: Problem, lines: list[str]) -> str:
        place = f"{self.file}:{problem.line}:{problem.column}" if problem.line else self.file
        where = f"{path_text(problem.path)}: " if problem.path else ""
        text = visible(f"{place}: {where}{problem.message}")
        if 0 < problem.line <= len(lines):
            line, column = _window(lines[problem.line - 1], problem.column)
            number = str(problem.line)
            text += f"\n  {number} | {line}\n  {' ' * len(number)} | {' ' * (column - 1)}^"
        return text + (f"\n  hint: {visible(problem.hint)}" if problem.hint else "")


def path_text(path: SpecPath) -> str:
    """A path as people write it: ``edits[0].source.mask``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(
        "."
    )


def visible(text: str) -> str:
    """Text without what would steer a terminal or break the line: such characters as they are
    escaped in Python.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _window(line: str, column: int, width: int = 100) -> tuple[str, int]:
    """The part of a long line (a data URL, say) around a column, and the column in that part."""
    # One character for one, so that the caret stays in place.
    line = "".join(
        c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line
    )
    start = max(0, column - 1 - width // 2) if column > width else 0
    part = line[start : start + width]
    tail = "…" if start + width < len(line) else ""
    return ("…" + part[1:] if start else part) + tail, column - start
