"""The state that a bench keeps in its folder, so that an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from editspec_runtime.errors import FileError
from editspec_runtime.io.files import canonical_json, write
from editspec_runtime.io.outputs import run_folder

STATE = "state.json"
"""The features that a run used, and how long each build took."""


def open_folder(out: Path, features_digest: str) -> dict[str, float]:
    """Take a folder for a bench, and read the seconds of builds of an earlier run.

    Raises
    ------
    FileError
        Something else lies at `out`, its state is damaged, or the earlier run used other features.
    """
    run_folder(STATE, "bench").require_free(out)
    state = out / STATE
    seconds: dict[str, float] = {}
    if state.is_file():
        try:
            found = json.loads(state.read_text())
            before, seconds = found["features"], found["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            hint = "Remove the folder, or give another."
            raise FileError(f"{state} is damaged.", hint) from error
        if before != features_digest:
            raise FileError(
                f"The bench in {out} used features {before}, and these are {features_digest}.",
                "Give a folder of its own for each backbone.",
            )
    write_state(out, features_digest, seconds)
    return seconds


def write_state(out: Path, features_digest: str, seconds: dict[str, float]) -> None:
    """Write the state of a bench into its folder."""
    text = canonical_json({"features": features_digest, "seconds": seconds}) + "\n"
    write(out / STATE, text.encode())
