"""What the documentation holds: its command lines, specs, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
)
"""The pages of the documentation."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|\n)\n((?: {4}.*\n|\n(?= {4}))+)")
INLINE = re.compile(r"`(editspec [^`]+)`")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:editspec|python3?|pip|torchrun|docker|git|npm)(?: \S|$)")
"""Programs and what is set for them, with which a command line begins; in pictures made of text
two spaces follow a name.
"""

LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def blocks(text: str, language: str) -> Iterator[str]:
    """Find the fenced blocks of a language."""
    for match in FENCE.finditer(text):
        if match[2] == language:
            yield match[3]


def command_lines(text: str) -> Iterator[list[str]]:
    """Find the command lines of a page that stand on lines of their own, as their words."""
    shown = [match[1] for match in INDENTED.finditer(FENCE.sub("\n", text))]
    shown += [*blocks(text, "sh"), *blocks(text, "bash"), *blocks(text, "console")]
    for block in shown:
        for line in block.replace("\\\n", " ").splitlines():
            if COMMAND.match(line.strip()):
                # Brackets stand around what may be left out.
                yield shlex.split(re.sub(r"\[(-[^\]]*)\]", r"\1", line), comments=True)


def mentions(text: str) -> Iterator[list[str]]:
    """Find the commands that stand within sentences and tables, as their words."""
    for match in INLINE.finditer(FENCE.sub("", text)):
        yield match[1].replace("\\|", "|").split()


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


def links(text: str) -> Iterator[tuple[str, str]]:
    """Find the links to files of the repository: the file, and the anchor in it."""
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor
