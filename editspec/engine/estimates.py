"""What a plan says of the cost of an edit, as measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editspec.engine.result import count_of

STATUS = Path("/proc/self/status")

PARALLEL = 0.9
"""The cosine between the keys of two places from which on they are said to overlap."""

MOST_COMPARED = 4096
"""The number of places whose keys are compared at most."""

MOST_NAMED = 20
"""The number of overlaps that are named at most."""

COPIES = 3
"""The number of matrices of the size of C that a build holds at once: C, its factor, a sum."""

BESIDES = 80 * 2**20
"""The bytes of what a build loads and a plan does not, as measured: code, and room to solve in."""

RIDGE = 1e-10
"""What is added to C before it is inverted, as a share of its mean diagonal."""

LARGEST_FACTORED = 512
"""The number of features of the largest matrix that is factored to measure how long that takes."""


@dataclass(frozen=True)
class Estimate:
    """The cost of an edit that is to be built.

    Attributes
    ----------
    tokens
        The number of tokens whose keys are still to be computed for C, over all layers of the edit
        that have keys of their own.
    targets, kept
        The number of values that are to be searched for, and of those that the cache has.
    peak_memory
        The bytes that a build is expected to hold at most: what was held while this was measured,
        and what a build holds besides.
    seconds
        The seconds that each stage is expected to take at most, from a second of measuring.
    places
        The number of tokens whose values change, where an edit may have several at one place.
    """

    tokens: int
    targets: int
    kept: int
    peak_memory: int
    seconds: dict[str, float]
    places: int = 0

    def to_text(self) -> str:
        """The estimate in a line."""
        parts = []
        if self.places:
            parts.append(f"{count_of(self.places, 'token')} to edit")
        parts.append(f"C of {count_of(self.tokens, 'token')}" if self.tokens else "C cached")
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
    """Two places whose keys are nearly parallel, so that an edit of one moves the other.

    Attributes
    ----------
    facts
        What is said at both.
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
    """A time in words for people: a short one is a tenth of a second at most, never none."""
    if took < 10:
        return f"{max(took, 0.1):.1f} s"
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


def significant(seconds: dict[str, float]) -> dict[str, float]:
    """The seconds of each stage to three significant digits, so that a short one is not none."""
    return {stage: float(f"{took:.3g}") for stage, took in seconds.items()}


def time_call(function: Callable[[], object]) -> float:
    """Measure the seconds that a call takes."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_solving(features: int) -> float:
    """Measure the seconds that factors of C take, and what is solved with them."""
    size = min(features, LARGEST_FACTORED)
    matrix = torch.eye(size, dtype=torch.float64) + 1e-3
    took = time_call(lambda: torch.linalg.cholesky(matrix))
    # Two factors, and a collateral of about as many operations.
    return 4 * took * (features / size) ** 3


@dataclass(frozen=True)
class Owned:
    """A place that an edit changes: the name of the edit, and what is said there."""

    edit: str
    said: str


def name_overlaps(
    owned: Sequence[Owned], layer: str, keys: Tensor, moment: Tensor | None
) -> list[Overlap]:
    """Name the places whose keys [n, in] are nearly parallel, the most parallel first.

    `moment` is C, [in, in]; None where it is not known.
    """
    whitened = _whiten(keys.double().cpu(), moment)
    cosines = (whitened @ whitened.T).triu(1)
    found = []
    for first, second in (cosines > PARALLEL).nonzero().tolist():
        one, two = owned[first], owned[second]
        # A place that is given twice is told of the spec itself.
        if one.said == two.said:
            continue
        cosine = round(float(cosines[first, second]), 4)
        known = moment is not None
        found.append(Overlap((one.said, two.said), (one.edit, two.edit), layer, cosine, known))
    return first_overlaps(found)


def first_overlaps(found: Sequence[Overlap]) -> list[Overlap]:
    """The most parallel of overlaps, as many as are named."""
    return sorted(found, key=lambda each: -each.cosine)[:MOST_NAMED]


def _whiten(keys: Tensor, moment: Tensor | None) -> Tensor:
    """Give keys [n, in] the length 1 in the metric of C^-1; in that of the identity without C."""
    if moment is not None:
        own = moment.double().cpu()
        ridge = RIDGE * own.diagonal().mean() * torch.eye(len(own), dtype=torch.float64)
        root = torch.linalg.cholesky(own + ridge)
        keys = torch.linalg.solve_triangular(root, keys.T, upper=False).T
    unit: Tensor = keys / keys.norm(dim=1, keepdim=True)
    return unit
