"""Functions that tests of executors send to other processes. Imports little, as workers do."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from editspec_runtime.errors import NumericalError


@dataclass(frozen=True)
class Noted:
    """A function that notes which process begins an item, waits, and squares the item."""

    log: Path
    seconds: float

    def __call__(self, item: int) -> int:
        with self.log.open("a") as file:
            file.write(f"{item} {os.getpid()}\n")
        time.sleep(self.seconds)
        return item * item

    def begun(self) -> list[tuple[int, int]]:
        """The items that were begun, each with its process."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        return [(int(item), int(process)) for item, process in map(str.split, lines)]


def fail(item: str) -> str:
    """Fail in the way that the item names."""
    if item == "numbers":
        raise NumericalError("There is no answer.", "Give other numbers.")
    if item == "defect":
        raise ZeroDivisionError("nothing to divide by")
    if item == "memory":
        raise MemoryError
    if item == "end":
        os._exit(3)
    return item
