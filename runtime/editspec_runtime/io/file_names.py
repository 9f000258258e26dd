"""Names of files that lead nowhere: what is odd about them, and what was meant."""

from __future__ import annotations

import difflib
import unicodedata
from itertools import islice
from pathlib import Path

NEIGHBOURS = 10_000
"""The most files of a folder that a name is compared with."""

NEAR = 0.75
"""How alike the stem of a name that may be meant is, from 0 to 1."""

QUOTE = "a curly quotation mark"
SPACE = "a space of another kind"
DASH = "a dash that is not a hyphen"
SLASH = "a slash that separates no folders"

ODD_CHARACTERS = {
    "\u201c": (QUOTE, ""),
    "\u201d": (QUOTE, ""),
    "\u201e": (QUOTE, ""),
    "\u2018": (QUOTE, "'"),
    "\u2019": (QUOTE, "'"),
    "\u00a0": ("a no-break space", " "),
    "\u202f": ("a no-break space", " "),
    "\u2009": (SPACE, " "),
    "\u3000": (SPACE, " "),
    "\u2010": (DASH, "-"),
    "\u2011": (DASH, "-"),
    "\u2013": (DASH, "-"),
    "\u2014": (DASH, "-"),
    "\u2212": (DASH, "-"),
    "\u2044": (SLASH, "/"),
    "\u2215": (SLASH, "/"),
    "\\": ("a backslash, and folders are separated by /", "/"),
}
"""Characters that word processors and other systems put into names.

Each has its name in words, and the character that was meant.
"""

BEGINNINGS = {
    "http://": "no address is opened here: download the file, and give its name",
    "https://": "no address is opened here: download the file, and give its name",
    "file:": "give the path itself, without file:",
    "~": "~ is not expanded: write the folder out",
    "$": "variables are not expanded: write the folder out",
}
"""What to do about a path that begins in a way that shells and browsers know."""


def find_hint(name: str, folder: Path) -> str:
    """Say what is odd about the name of a file that is not there, or which name was meant.

    Parameters
    ----------
    name
        The name as it was given.
    folder
        What it is relative to.

    Returns
    -------
    str
        A hint without a full stop; empty where nothing is known.
    """
    for beginning, hint in BEGINNINGS.items():
        if name.startswith(beginning):
            return hint
    try:
        meant = _find_meant(name, folder)
    except (OSError, ValueError):  # a folder that may not be read, a name that is too long
        meant = ""
    odd = describe_odd(name)
    if odd and meant:
        return f'{odd}; did you mean "{meant}"?'
    if meant and unicodedata.normalize("NFC", meant) == unicodedata.normalize("NFC", name):
        form = "NFC" if unicodedata.is_normalized("NFC", meant) else "NFD"
        return (
            f"there is a file whose name looks the same, with its accents in Unicode's form {form}:"
            " rename it, or copy its name into the spec"
        )
    if meant:
        return f'did you mean "{meant}"?'
    return odd


def describe_odd(name: str) -> str:
    """Name the first odd thing about a name; empty where there is none."""
    for character in name:
        if character in ODD_CHARACTERS:
            what, _ = ODD_CHARACTERS[character]
            number = "" if character.isascii() else f" (U+{ord(character):04X})"
            return f"the name has {what}{number}"
        if unicodedata.category(character) == "Cc":
            return f"the name holds control characters (U+{ord(character):04X})"
        if not character.isprintable():
            return f"the name has a character that nobody sees (U+{ord(character):04X})"
    if name != name.strip():
        return "the name begins or ends in a space"
    if len(name) > 1 and name[0] in "'\"" and name[-1] == name[0]:
        return "the name has quotation marks within the quotes"
    return ""


def _find_meant(name: str, folder: Path) -> str:
    """Find the file that a name is a misspelling of; empty where none is near."""
    cleaned = _clean(name)
    if cleaned != name and (folder / cleaned).is_file():
        return cleaned
    at, found = folder, ""
    # Part by part, as the folder may be what is misspelt.
    for part in Path(cleaned).parts:
        if not (at / part).exists():
            near = _find_near(part, at)
            if not near:
                return ""
            part = near
        at = at / part
        found = f"{found}/{part}" if found and not found.endswith("/") else found + part
    return found if at.is_file() else ""


def _find_near(part: str, folder: Path) -> str:
    """Find the entry of a folder whose name is nearest to `part`; empty where none is near."""
    names = sorted(entry.name for entry in islice(folder.iterdir(), NEIGHBOURS))
    by_look = {_look(name): name for name in reversed(names)}
    if _look(part) in by_look:
        return by_look[_look(part)]
    kin = [name for name in names if Path(name).suffix == Path(part).suffix]
    for among in (kin, names):
        # Endings are alike anyhow: they would make any two names of one kind look near.
        stems = {Path(name).stem: name for name in reversed(among)}
        if near := _find_alike(Path(part).stem, list(stems)):
            return stems[near]
    return ""


def _find_alike(stem: str, stems: list[str]) -> str:
    """Find the stem with the same letters, else the nearest one; empty where none is near."""
    letters = sorted(stem)
    for other in stems:
        if sorted(other) == letters:
            return other
    close = difflib.get_close_matches(stem, stems, n=1, cutoff=NEAR)
    return close[0] if close else ""


def _look(name: str) -> str:
    """Return a name without what eyes do not tell apart."""
    return unicodedata.normalize("NFKC", name).casefold()


def _clean(name: str) -> str:
    """Return a name with plain characters in place of odd ones."""
    plain = name
    for odd, (_, usual) in ODD_CHARACTERS.items():
        plain = plain.replace(odd, usual)
    visible = "".join(filter(str.isprintable, plain))
    return visible.strip().strip("'\"")


def is_plain_path(name: str) -> bool:
    """Whether a name leads to a place below a folder, by printable parts, on any system."""
    parts = name.split("/")
    odd = {"", ".", ".."} & set(parts) or any(character in name for character in '\\:*?"<>|')
    return name.isprintable() and not odd
