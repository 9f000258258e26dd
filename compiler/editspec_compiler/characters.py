"""Characters that look like those of YAML and are others, named for what they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u200b-\u200f\u2060\ufeff"
QUOTES = "\u2018-\u201f\u00ab\u00bb\u2039\u203a\u2032\u2033\u300c\u300d\uff02\uff07"
DASHES = "\u2010-\u2015\u2212\ufe58\uff0d"
COLONS = "\uff1a\ufe55\ua789"
COMMAS = "\uff0c\u3001\ufe50"


@dataclass(frozen=True)
class Lookalike:
    """Characters that are taken for another one.

    Attributes
    ----------
    characters
        The characters, as a class of a regular expression has them.
    name
        What one of them is called.
    hint
        What to do about it.
    """

    characters: str
    name: str
    hint: str

    def has(self, character: str) -> bool:
        """Whether a character is one of them."""
        return re.fullmatch(f"[{self.characters}]", character) is not None


LOOKALIKES = (
    Lookalike(
        SPACES,
        "a space that does not break lines, or is of another width",
        "write a plain space in its place",
    ),
    Lookalike(INVISIBLE, "an invisible character", "remove it"),
    Lookalike(QUOTES, "a curly quote", "write straight quotes in place of the curly ones"),
    Lookalike(DASHES, "a dash that is not a hyphen", "write - in its place"),
    Lookalike(COLONS, "a wide colon", "write : in its place"),
    Lookalike(COMMAS, "a wide comma", "write , in its place"),
)
"""Every kind of lookalike."""

EVERY = re.compile("[" + "".join(each.characters for each in LOOKALIKES) + "]")
"""A lookalike of any kind."""


def describe_lookalike(character: str) -> tuple[str, str]:
    """Say what a lookalike is, and what to do."""
    kind = next(each for each in LOOKALIKES if each.has(character))
    return f"U+{ord(character):04X}, {kind.name}, stands here", kind.hint


def find_at_edge(text: str) -> int | None:
    """Find a lookalike at the beginning or the end of a plain text; None: there is none."""
    if text and EVERY.match(text[0]):
        return 0
    if text and EVERY.match(text[-1]):
        return len(text) - 1
    return None


def strip_lookalikes(text: str) -> str:
    """Remove lookalikes from the beginning and the end of a text."""
    while text and EVERY.match(text[0]):
        text = text[1:]
    while text and EVERY.match(text[-1]):
        text = text[:-1]
    return text


def find_nearby(text: str, index: int) -> int | None:
    """Find the last lookalike in the line of a place or in the line before; None: there is none.

    Comments and the text in straight quotes are left out.
    """
    begin = text.rfind("\n", 0, max(text.rfind("\n", 0, index), 0)) + 1
    end = text.find("\n", index)
    lines = text[begin : end if end >= 0 else len(text)]
    plain = COVERED.sub(lambda found: " " * len(found[0]), lines)
    places = [found.start() for found in EVERY.finditer(plain)]
    return begin + places[-1] if places else None


COVERED = re.compile(r"""#[^\n]*|"[^"\n]*"|'[^'\n]*'""")
"""What is written in quotes or in a comment."""
