"""Everything that is wrong with a spec, at once and in place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from editspec_runtime.codes import Code
from editspec_runtime.confidential import hide_secrets

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Where YAML begins a new line: a little more than `\\n`, and less than `str.splitlines`."""

SHOWN = 100
"""The most problems that are written out; of the others the count is told."""

LONGEST_WORD = 2000
"""The most characters of a message or a hint that are shown."""

SpecPath = tuple[str | int, ...]
"""A place in a spec: keys and indices from the top, such as ``("edits", 0, "mask")``."""


@dataclass(frozen=True)
class RowPlace:
    """A place in a file whose rows stand for entries of a spec.

    Attributes
    ----------
    file
        Its name in the spec.
    line, column
        Where in it, from 1; 0 for the file as a whole.
    text
        The line.
    """

    file: str
    line: int
    column: int
    text: str


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
    warning
        Whether the spec can be used all the same.
    row
        Where in a file of rows, whose name is at `line` and `column`; None for the spec itself.
    """

    message: str
    path: SpecPath = ()
    line: int = 0
    column: int = 0
    hint: str = ""
    code: Code = Code.SPEC
    warning: bool = False
    row: RowPlace | None = None

    def __post_init__(self) -> None:
        # Problems quote what they found, and are printed in logs that many people read.
        for name in ("message", "hint"):
            object.__setattr__(self, name, hide_secrets(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as plain values."""
        written = {"path": path_text(self.path), "code": str(self.code)}
        plain = asdict(self) | written
        del plain["warning"]
        if self.row is None:
            del plain["row"]
        return plain


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

    Attributes
    ----------
    left_out
        The count of the problems that are not shown; `problems` holds all of them.
    """

    def __init__(self, file: str, problems: Iterable[Problem], text: str = "") -> None:
        self.file = file
        # A set: the language and the look-up of what is named may find the same mistake.
        self.problems = sorted(set(problems), key=_order)
        self.text = text
        self.left_out = max(0, len(self.problems) - SHOWN)
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.problems, self.text)

    def __str__(self) -> str:
        # As YAML counts lines, and not as `str.splitlines` does: else another line is shown.
        lines = LINE_BREAK.split(self.text) if self.text else []
        shown = [_render(problem, self.file, lines) for problem in self.problems[:SHOWN]]
        if self.left_out:
            shown.append(f"{visible(self.file)}: {self.left_out} more problems are not shown")
        return "\n".join(shown)

    def as_json(self) -> dict[str, Any]:
        """Return the problems as plain values."""
        problems = [problem.to_dict() for problem in self.problems[:SHOWN]]
        found: dict[str, Any] = {"file": self.file, "problems": problems}
        if self.left_out:
            found["left_out"] = self.left_out
        return found


def render_problem(problem: Problem, file: str, text: str) -> str:
    """Write a problem for people, with the line of the spec's `text` that it is about."""
    # As YAML counts lines, and not as `str.splitlines` does: else another line is shown.
    return _render(problem, file, LINE_BREAK.split(text))


def _render(problem: Problem, file: str, lines: list[str]) -> str:
    place, where, line_number, column = file, "", problem.line, problem.column
    shown = lines[line_number - 1] if 0 < line_number <= len(lines) else None
    if problem.row is not None:
        place, line_number, column = problem.row.file, problem.row.line, problem.row.column
        shown = problem.row.text if line_number else None
    if line_number:
        place = f"{place}:{line_number}:{column}"
    if problem.path:
        where = f"{path_text(problem.path)}: "
    text = visible(_cut(f"{place}: {where}{problem.message}"))
    if shown is not None:
        line, column = _window(hide_secrets(shown), column)
        number = str(line_number)
        text += f"\n  {number} | {line}\n  {' ' * len(number)} | {' ' * (column - 1)}^"
    if problem.hint:
        text += f"\n  hint: {visible(_cut(problem.hint))}"
    return text


def _order(problem: Problem) -> tuple[int, int, int, int, str]:
    row = problem.row or RowPlace("", 0, 0, "")
    return problem.line, problem.column, row.line, row.column, problem.message


def _cut(text: str) -> str:
    """Cut a text to `LONGEST_WORD` characters."""
    return text if len(text) <= LONGEST_WORD else text[:LONGEST_WORD] + "…"


def path_text(path: SpecPath) -> str:
    """Write a path as people do: ``edits[0].source.mask``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def visible(text: str) -> str:
    """Escape all that would steer a terminal or break the line, as Python does."""
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _window(line: str, column: int, width: int = 100) -> tuple[str, int]:
    """Cut a long line (a data URL, say) around a column.

    Returns the part, and the column in it.
    """
    start = 0
    if column > width:
        start = max(0, column - 1 - width // 2)
    # Cut before it is cleaned: a line may be as long as the text. One character stands for one, so
    # that the caret stays in place.
    part = "".join(map(_stand_in, line[start : start + width]))
    if start:
        part = "…" + part[1:]
    if start + width < len(line):
        part += "…"
    return part, column - start


def _stand_in(character: str) -> str:
    """Return a printable character of the same width."""
    if character.isprintable():
        return character
    return " " if character == "\t" else "\N{REPLACEMENT CHARACTER}"


def suggest(wanted: str, known: list[str]) -> str:
    """Write a hint that names the nearest of the known words, and all of them."""
    hint = f"known here: {', '.join(known)}"
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"? {hint}' if close else hint
