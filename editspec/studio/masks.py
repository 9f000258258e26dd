"""The masks that were painted: drafts until the spec is saved, then files of the project.

A mask is named by its pixels, so that equal masks are one file. The drafts lie in the folder of the
draft, which git ignores, and hold every mask that an earlier text names. Saving writes what the
text names into the project, and removes what no spec there names any more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from editspec.modalities.image.pictures import encode_png
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write

FOLDER = "masks"
PAINTED = re.compile(rf"{FOLDER}/[0-9a-f]{{10}}\.png")
"""The name of a mask that the studio made."""

SPECS = ("*.yaml", "*.yml", "*.json")
"""The files of a project that may name masks."""


@dataclass(frozen=True)
class MaskStore:
    """The masks of the spec at `spec`, and its `drafts`.

    `project` is the folder that none of them may lie out of.
    """

    spec: Path
    drafts: Path
    project: Path

    def add(self, image: Image.Image) -> str:
        """Keep a mask that was painted as a draft, and return its name."""
        name = f"{FOLDER}/{hashlib.sha256(image.tobytes()).hexdigest()[:10]}.png"
        place = self._place(self.drafts, name)
        if not place.is_file():
            write(place, encode_png(image))
        return name

    def save(self, text: str) -> None:
        """Write the masks that a text names into the project."""
        for name in sorted(set(PAINTED.findall(text))):
            draft = self._place(self.drafts, name)
            if draft.is_file():
                self._write_if_new(self._place(self.spec.parent, name), draft.read_bytes())

    def remove_unused(self, text: str, before: str, remembered: Iterable[str]) -> None:
        """Remove the masks that no spec of the folder names any more.

        Parameters
        ----------
        text
            The text of the spec.
        before
            The text that its file had before. Of masks in the project, only those that it names and
            those that were painted here are removed.
        remembered
            The texts of undo and redo, whose masks stay as drafts.
        """
        needed = {name for each in remembered for name in PAINTED.findall(each)}
        own = set(self._drafted()) | set(PAINTED.findall(before))
        used = set(PAINTED.findall(text)) | self._named_elsewhere()
        for name in sorted(own - used):
            self._remove(name, name in needed)

    def _remove(self, name: str, needed: bool) -> None:
        """Remove a mask from the project; what is `needed` stays as a draft."""
        draft, saved = self._place(self.drafts, name), self._place(self.spec.parent, name)
        if not needed:
            draft.unlink(missing_ok=True)
        elif saved.is_file():
            self._write_if_new(draft, saved.read_bytes())
        saved.unlink(missing_ok=True)

    def _named_elsewhere(self) -> set[str]:
        """Collect the masks that other specs of the folder name."""
        found: set[str] = set()
        for pattern in SPECS:
            for path in self.spec.parent.glob(pattern):
                if path != self.spec:
                    found.update(PAINTED.findall(path.read_text(errors="replace")))
        return found

    def _drafted(self) -> Iterable[str]:
        """Yield the names of the drafts."""
        for path in self._place(self.drafts, FOLDER).glob("*.png"):
            name = f"{FOLDER}/{path.name}"
            if PAINTED.fullmatch(name) and path.is_file():
                yield name

    def _place(self, folder: Path, name: str) -> Path:
        """Return the place of a name in a folder. Raises `UsageError` where a link leads out."""
        place = folder / name
        if not place.resolve().is_relative_to(self.project):
            raise UsageError(f"{place} leads out of the project folder.", "Remove the link.")
        return place

    @staticmethod
    def _write_if_new(place: Path, content: bytes) -> None:
        if not place.is_file() or place.read_bytes() != content:
            write(place, content)
