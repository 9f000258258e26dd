"""Files of edit records, and the two states of windows."""

from __future__ import annotations

from pathlib import Path

from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import kept_file

BRIGHT, DIM = 10.0, -5.0
"""Values of the units at which windows are bright and dark (paper section 5.3)."""
INTERVENED, OBSERVED = "layer4", "layer8"
"""The layer whose units are switched and the one where results are compared (paper section 5.3)."""


def opposite_value(value: float) -> float:
    """Return the value of windows in their other state.

    A record holds the state that was last looked at, bright or dim.
    """
    return DIM if value > 0 else BRIGHT


def keep_file(path: Path, data: bytes) -> None:
    """Write a file unless one with the same bytes is there.

    Raises `FileError` where another file is in the way.
    """
    kept_file(data).require_free(path)
    if not path.exists():
        write(path, data)
