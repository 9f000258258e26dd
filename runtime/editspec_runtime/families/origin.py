"""The origin of a model, besides its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """The file, the folder and the permission that a model is made with.

    Attributes
    ----------
    weights
        The file of its weights; None for tensors in memory.
    folder
        The folder of its spec, in which its code is looked for first.
    allow_code
        Whether foreign code that a spec names may run, with all that its user may do.
    """

    weights: Path | None = None
    folder: Path = Path()
    allow_code: bool = False
