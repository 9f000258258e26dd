"""A spec of one edit in a folder of its own, and what ``editspec build --json`` says of it: seconds
per stage.

The command is a process as anyone starts it. Its second moment is in the cache after the first
build; what it solved is forgotten before each one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editspec.engine.session import BuildSession
from editspec_runtime.core.progress import no_progress
from editspec_runtime.io.cache import Cache

SOLVED = ("solutions", "losses", "patches", "rules")
"""What the cache holds of an edit that was solved."""


def forget(cache: Cache) -> None:
    """Remove what was solved from a cache; second moments stay."""
    for kind in SOLVED:
        shutil.rmtree(cache.root / kind, ignore_errors=True)


@dataclass(frozen=True)
class Project:
    """A spec of one edit.

    Attributes
    ----------
    folder
        Where the spec, its build and its cache lie.
    spec
        The spec as plain data, but for the solver.
    device
        Where it is built, as ``--device`` says it.
    """

    folder: Path
    spec: Mapping[str, Any]
    device: str = "cpu"

    @property
    def patch(self) -> Path:
        """The patch of the last build."""
        (path,) = (self.folder / "out" / "patches").iterdir()
        return path

    def build(self, solver: Mapping[str, Any]) -> dict[str, Any]:
        """What the command says of the edit with this solver: ``seconds`` by stage, ``loss`` and
        the rest.
        """
        forget(self.cache)
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        path = self.written(solver)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        options = ["--json", "--device", self.device, "--threads", str(torch.get_num_threads())]
        result = subprocess.run(
            [sys.executable, "-m", "editspec", "build", path.name, "-o", "out", *options],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=os.environ | {"EDITSPEC_CACHE": str(self.cache.root)},
        )
        if result.returncode:
            sys.exit(result.stderr)
        (edit,) = json.loads(result.stdout)["edits"]
        return dict(edit)

    def session(self, solver: Mapping[str, Any]) -> BuildSession:
        """The same in this process, with the same cache."""
        return BuildSession.of(self.written(solver), self.device, no_progress, cache=self.cache)

    @property
    def cache(self) -> Cache:
        """Where its second moment is kept."""
        return Cache(self.folder / "cache")

    def written(self, solver: Mapping[str, Any]) -> Path:
        """The spec with this solver as a file."""
        (edit,) = self.spec["edits"]
        path = self.folder / "spec.json"
        path.write_text(json.dumps({**self.spec, "edits": [{**edit, "solver": solver}]}))
        return path
