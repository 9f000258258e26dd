"""The folder that names of files in a spec are relative to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DraftedFolder:
    """A project folder, some of whose files are drafts that lie elsewhere.

    Attributes
    ----------
    path
        The project folder.
    drafts
        A folder like it. A file that lies in it stands for that of the same name in `path`.
    """

    path: Path
    drafts: Path

    def __truediv__(self, name: str) -> Path:
        """Return the place of the file of a name."""
        draft = self.drafts / name
        return draft if draft.is_file() else self.path / name


Folder = Path | DraftedFolder
"""What a name is joined to with ``/``."""


def project_folder(folder: Folder) -> Path:
    """Return the folder that a person knows."""
    return folder.path if isinstance(folder, DraftedFolder) else folder
