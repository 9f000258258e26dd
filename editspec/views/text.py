"""Texts of others, made so that they neither steer a terminal nor become Markdown."""

from __future__ import annotations

import re

from editspec_compiler.problems import visible

SPECIAL = re.compile(r"[\\`*\[\]<>|~!&$]|(?<!\w)_|_(?!\w)|(?<!\w)#|@|(?<=:)//")
"""What begins something in Markdown, or in what GitHub makes of it."""


def visible_lines(text: str) -> str:
    """Text of several lines in which all but the ends of lines is visible."""
    return "\n".join(visible(line) for line in text.split("\n"))


def markdown_text(text: str) -> str:
    """A text that stands in a line or in a table of Markdown as it is."""
    return SPECIAL.sub(_entity, visible(text))


def markdown_code(text: str) -> str:
    """A name as code in a line of Markdown, whatever it consists of."""
    shown = visible(text)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{shown}{space}{fence}"


def markdown_block(text: str) -> list[str]:
    """Lines as they are, in Markdown.

    They are indented, since they may quote the marks of a fence.
    """
    return [f"    {visible(line)}" for line in text.split("\n")]


def _entity(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(character)};" for character in found[0])
