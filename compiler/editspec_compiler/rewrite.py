"""Where the values of a spec stand in its text, so that some are replaced and all else stays as it
was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml


def node_at(node: Any, path: Sequence[str | int]) -> yaml.Node | None:
    """The node at a path below another; None where there is none."""
    for part in path:
        if isinstance(part, int):
            node = node.value[part]
        else:
            node = next((value for key, value in node.value if key.value == part), None)
        if node is None:
            return None
    return node  # type: ignore[no-any-return]


def replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """The text with other words where `changes` has them: begin, end, and what stands there
    instead.
    """
    for begin, end, words in sorted(changes, reverse=True):
        text = text[:begin] + words + text[end:]
    return text
