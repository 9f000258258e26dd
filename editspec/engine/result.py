"""The base of results, which give text, JSON and an exit code. Imports no torch."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DONE, FAILED, WRONG_USE, TO_BUILD, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of the command line."""


def count_of(number: int, noun: str) -> str:
    """A count with its noun: ``1 edit``, ``2 edits``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class CommandResult:
    """The base of all results; each is a frozen dataclass."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, which ``--json`` prints."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @abstractmethod
    def to_text(self) -> str:
        """The result for people."""

    def to_terminal(self, width: int) -> str:
        """The result for a terminal that is `width` characters wide and shows colours."""
        return self.to_text()

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return DONE

    @property
    def is_failure(self) -> bool:
        """Whether the result is a list of errors, whose text belongs on stderr."""
        return False


def to_plain(value: Any) -> Any:
    """Turn dataclasses into dicts, tuples into lists, and paths into text.

    All other values stay as they are.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


FEW = 4
"""The number of layers that are listed by name."""


def describe_layers(names: str) -> str:
    """Name layers in words; `names` are theirs, joined by commas."""
    layers = names.split(",")
    if len(layers) <= FEW:
        return names
    return f"{len(layers)} layers from {layers[0]} to {layers[-1]}"


def describe_rank(rank: int | None) -> str:
    """Name the rank of a change in words; None is one without a limit."""
    return "full rank" if rank is None else f"rank {rank}"
