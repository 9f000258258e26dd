"""The answers of models to questions: texts, and pictures as PNG files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import RLock
from typing import Any

from editspec_runtime.io.digests import digest

LIMIT, BYTES = 4096, 2**28
"""The number of answers that are kept, and their bytes together, at most."""


class Answers:
    """The latest answers, by the model and by what it was asked.

    A model's name stands for its weights, so that an answer never changes.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._kept: OrderedDict[str, str | bytes] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def name(model: str, asked: Mapping[str, Any]) -> str:
        """Name the answer of a model."""
        return digest([model, dict(asked)])[:16]

    def keep(self, name: str, answer: str | bytes) -> None:
        """Keep an answer, and forget the oldest where there are many."""
        with self._lock:
            self._forget(name)
            self._kept[name] = answer
            self._bytes += len(answer)
            while len(self._kept) > LIMIT or (self._bytes > BYTES and len(self._kept) > 1):
                self._forget(next(iter(self._kept)))

    def find(self, name: str) -> str | bytes | None:
        """Return the answer of a name; None where it is not there."""
        with self._lock:
            return self._kept.get(name)

    def _forget(self, name: str) -> None:
        self._bytes -= len(self._kept.pop(name, ""))
