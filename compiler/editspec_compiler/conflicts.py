"""Marks of a merge that was not resolved, in a spec or in a lock."""

from __future__ import annotations

import re

from editspec_compiler.problems import LINE_BREAK, Problem
from editspec_runtime.codes import Code

OPENING = re.compile(r"<{7}( |$)")
MARKER = re.compile(r"(<{7}|\|{7}|>{7})( |$)|={7}$")
"""A line that git writes where two sides of a merge differ: the first one, and any."""

OF_A_SPEC = "keep what is right of the two sides, and remove the lines <<<<<<<, ======= and >>>>>>>"
OF_A_LOCK = "merge the spec, then run editspec build or editspec lock, which write the lock anew"


def find_conflict(text: str, file: str) -> Problem | None:
    """Find the first mark of a merge; None where there is none.

    A line of equals signs alone is one only where another mark of the same merge is there.
    """
    lines = LINE_BREAK.split(text)
    marks = [number for number, line in enumerate(lines, start=1) if MARKER.match(line)]
    others = [number for number in marks if not lines[number - 1].startswith("=")]
    if not others:
        return None
    message = f"a merge was not resolved: this line is a mark of git, one of {len(marks)}"
    hint = OF_A_LOCK if file.endswith(".lock") else OF_A_SPEC
    return Problem(message, (), marks[0], 1, hint, Code.TEXT_CONFLICT)
