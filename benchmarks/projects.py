"""A spec of one edit in a folder, and the seconds per stage of its build.

The seconds are those of ``editspec build --json``, run as a process of its own. The second moment
is in the cache after the first build. The solution is removed from the cache before each build.
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
"""The folders of the cache that hold solved edits."""


def forget_solutions(cache: Cache) -> None:
    """Remove the solved edits from a cache; second moments stay."""
    for kind in SOLVED:
        shutil.rmtree(cache.root / kind, ignore_errors=True)


@dataclass(frozen=True)
class Project:
    """A spec of one edit.

    Attributes
    ----------
    folder
        The folder of the spec, its build and its cache.
    spec
        The spec as plain data, without the solver.
    device
        The device of the build, as ``--device`` names it.
    """

    folder: Path
    spec: Mapping[str, Any]
    device: str = "cpu"

    @property
    def patch(self) -> Path:
        """The path of the patch of the last build."""
        (path,) = (self.folder / "out" / "patches").iterdir()
        return path

    def build(self, solver: Mapping[str, Any], threads: int | None = None) -> dict[str, Any]:
        """Build with a solver, and return the entry of the edit in the JSON.

        The entry has ``seconds`` by stage, ``loss`` and others. Without `threads` the build takes
        as many as this process.
        """
        forget_solutions(self.cache)
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        path = self.write_spec(solver)
        # The lock of another solver would refuse this one.
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        threads = torch.get_num_threads() if threads is None else threads
        options = ["--json", "--device", self.device, "--threads", str(threads)]
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

    def open_session(self, solver: Mapping[str, Any]) -> BuildSession:
        """Open a session on the spec in this process, with the cache of the builds."""
        return BuildSession.of(self.write_spec(solver), self.device, no_progress, cache=self.cache)

    @property
    def cache(self) -> Cache:
        """The cache that keeps the second moment."""
        return Cache(self.folder / "cache")

    def write_spec(self, solver: Mapping[str, Any]) -> Path:
        """Write the spec with a solver, and return the path of its file."""
        (edit,) = self.spec["edits"]
        path = self.folder / "spec.json"
        path.write_text(json.dumps({**self.spec, "edits": [{**edit, "solver": solver}]}))
        return path
