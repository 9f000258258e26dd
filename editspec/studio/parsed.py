"""Documents of texts, each of which is parsed once.

One request asks for the document of the same text several times, and a large text takes a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from editspec_compiler import SpecError
from editspec_compiler.document import Document, parse
from editspec_compiler.problems import SpecPath
from editspec_runtime.io.digests import digest

OFF = "# off: "
"""The beginning of each line of an edit that is switched off."""

NO_CONTENT = ("edits", "checks")
"""The keys of a spec that say nothing of the model before its edits."""

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


def is_readable(text: str, file: str) -> bool:
    """Tell whether a text is a document, whatever the document says."""
    return not isinstance(_parse(show_all_edits(text), file), SpecError)


def edits_of(text: str, file: str) -> list[Any]:
    """List the edits of a text, on or off. A text that cannot be read has none."""
    document = _parse(show_all_edits(text), file)
    edits = None if isinstance(document, SpecError) else document.data.get("edits")
    return edits if isinstance(edits, list) else []


@lru_cache(maxsize=KEPT)
def digest_content(text: str, file: str) -> tuple[str, ...]:
    """Digest what a build sees of a text: without edits, and then with one more each time.

    Comments and checks do not count. A text that cannot be read is digested letter by letter.
    """
    document = _parse(text, file)
    if isinstance(document, SpecError):
        return (digest(text),)
    edits = document.data.get("edits")
    if not isinstance(edits, list):
        return (digest(document.data),)
    digests = [digest({k: v for k, v in document.data.items() if k not in NO_CONTENT})]
    for edit in edits:
        digests.append(digest([digests[-1], edit]))
    return tuple(digests)


def find_texts(document: Document) -> Iterator[tuple[SpecPath, str]]:
    """Yield every text in a document with its path."""
    for path in document.positions:
        value: Any = document.data
        for part in path:
            value = value[part]
        if isinstance(value, str):
            yield path, value
