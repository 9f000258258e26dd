"""The cache of a project: a folder that no checkout can fill. Imports no torch.

Whoever can write into a cache can forge what commands take from it. A folder within a checkout is
therefore used only where git tracks nothing in it, and where this machine has made it.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from editspec.engine.project import Project
from editspec_runtime.errors import ProjectError
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.files import write

MADE = "projects"
"""The folder of the user's own cache that says which folders this machine has made."""

HINT = "Remove the folder, or leave cache out and set EDITSPEC_CACHE."


def find_cache(project: Project) -> Path | None:
    """Find the cache of a project; None where it has none.

    Raises
    ------
    ProjectError
        The folder may hold what others wrote.
    """
    if project.cache is None:
        return None
    folder = project.cache.resolve()
    if not folder.is_relative_to(project.file.parent.resolve()):
        raise ProjectError(f"{project.cache} is a link that leaves the project.", HINT)
    if _is_tracked(folder):
        raise ProjectError(f"{project.cache} holds files that git tracks.", HINT)
    name = hashlib.sha256(str(folder).encode()).hexdigest()
    mark = default_cache().root / MADE / name
    if not mark.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ProjectError(
                f"{project.cache} holds files, and this machine did not make it.", HINT
            )
        write(mark, f"{folder}\n".encode())
    return folder


def _is_tracked(folder: Path) -> bool:
    """Whether git tracks the folder or a file in it."""
    if not folder.parent.is_dir():
        return False
    command = ["git", "-C", str(folder.parent), "ls-files", "--", f":(literal){folder.name}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # without git nothing was checked out
        return False
    return bool(done.stdout)
