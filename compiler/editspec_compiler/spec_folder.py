"""The folder that names of files in a spec are relative to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from editspec_runtime.io.file_names import is_plain_path


@dataclass(frozen=True)
class ProjectFolder:
    """A project folder, some of whose files lie elsewhere.

    Attributes
    ----------
    path
        The project folder.
    drafts
        A folder like it. A file that lies in it stands for that of the same name in `path`.
    trees
        The folders of what was fetched of git, by their sources: ``SOURCE//NAME`` lies there.
    """

    path: Path
    drafts: Path | None = None
    trees: Mapping[str, Path] = field(default_factory=dict)

    def __truediv__(self, name: str) -> Path:
        """Return the place of the file of a name."""
        for source, tree in self.trees.items():
            inner = name.removeprefix(f"{source}//")
            # A name that leads out of the tree is one of no file.
            if inner != name and is_plain_path(inner):
                return tree / inner
        if self.drafts is not None and (self.drafts / name).is_file():
            return self.drafts / name
        return self.path / name


Folder = Path | ProjectFolder
"""What a name is joined to with ``/``."""


def project_folder(folder: Folder) -> Path:
    """Return the folder that a person knows."""
    return folder.path if isinstance(folder, ProjectFolder) else folder
