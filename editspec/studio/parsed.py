"""Documents of texts, each of which is parsed once.

One request asks for the document of the same text several times, and a large text takes a minute.
"""

from __future__ import annotations

import re
from functools import lru_cache

from editspec_compiler import SpecError
from editspec_compiler.document import Document, parse

OFF = "# off: "
"""The beginning of each line of an edit that is switched off."""

KEPT = 6
"""The texts that are kept parsed: those of before and after, each with all its edits, too."""


@lru_cache(maxsize=KEPT)
def show_all_edits(text: str) -> str:
    """Return the text with all edits switched on.

    No line changes its number, so that positions hold in both texts.
    """
    return re.sub(f"^{OFF}", "", text, flags=re.MULTILINE)


def parse_once(text: str, file: str) -> Document:
    """Parse a text, or return its document from the cache. Raises `SpecError`."""
    found = _parse(text, file)
    if isinstance(found, SpecError):
        raise found
    return found


@lru_cache(maxsize=KEPT)
def _parse(text: str, file: str) -> Document | SpecError:
    """Parse a text, or return its error."""
    try:
        return parse(text, file)
    except SpecError as error:
        return error
