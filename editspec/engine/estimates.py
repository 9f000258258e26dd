"""What a plan says of the cost of an edit, as measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from editspec.engine.result import count_of

STATUS = Path("/proc/self/status")

PARALLEL = 0.9
"""The cosine between the keys of two facts from which on they are said to overlap."""


@dataclass(frozen=True)
class Estimate:
    """The cost of an edit that is to be built.

    Attributes
    ----------
    tokens
        The number of tokens whose keys are still to be computed for C, over all layers of the edit.
    targets, kept
        The number of values that are to be searched for, and of those that the cache has.
    peak_memory
        The bytes that a build is expected to hold at most: what was held while this was measured,
        and what a build holds besides.
    seconds
        The seconds that each stage is expected to take at most, from a second of measuring.
    """

    tokens: int
    targets: int
    kept: int
    peak_memory: int
    seconds: dict[str, float]

    def to_text(self) -> str:
        """The estimate in a line."""
        parts = ["C cached"]
        if self.tokens:
            parts = [f"C of {count_of(self.tokens, 'token')}"]
        if self.targets or self.kept:
            parts.append(f"{count_of(self.targets, 'value')} to find")
        if self.kept:
            parts.append(f"{self.kept} kept")
        parts.append(f"{self.peak_memory / 2**30:.2f} GiB")
        stages = [f"{name} {_seconds(took)}" for name, took in self.seconds.items() if took]
        whole = _seconds(sum(self.seconds.values()))
        times = f" ({', '.join(stages)})" if len(stages) > 1 else ""
        parts.append(f"about {whole}{times}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Overlap:
    """Two facts whose keys are nearly parallel, so that one edit moves the other.

    Attributes
    ----------
    facts
        What both are, in words.
    edits
        The names of their edits.
    layer
        The layer of their keys.
    cosine
        The cosine between the keys: in the metric of C^-1 where C is known, else as they are.
    known
        Whether C is known.
    """

    facts: tuple[str, str]
    edits: tuple[str, str]
    layer: str
    cosine: float
    known: bool

    def to_line(self) -> str:
        """The overlap as a line for people."""
        names = self.edits[0]
        if self.edits[0] != self.edits[1]:
            names = " and ".join(self.edits)
        metric = "under C" if self.known else "C is not known yet"
        first, second = self.facts
        return (
            f'! {names}: the keys of "{first}" and "{second}" are nearly parallel ({self.layer}, '
            f"cosine {self.cosine:.2f}, {metric})"
        )


def _seconds(took: float) -> str:
    """A time in words for people."""
    if took < 10:
        return f"{took:.1f} s"
    if took < 120:
        return f"{took:.0f} s"
    if took < 7200:
        return f"{took / 60:.0f} min"
    return f"{took / 3600:.0f} h"


def peak_memory(device: torch.device) -> int:
    """The most bytes that were held so far: on a GPU those of its memory, else of this process.

    0 where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.is_file():
        # Not ru_maxrss, which a process inherits from the one that started it.
        lines = STATUS.read_text().splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM"))
        return 1024 * int(mark.split()[1])
    return 0
