"""The folder beside a spec in which its draft survives the server."""

from __future__ import annotations

import glob
import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from editspec.studio.identities import Identities
from editspec.studio.masks import FOLDER as MASKS
from editspec_compiler.document import read_document
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.files import remove_abandoned, write

FORMAT, VERSION = "editspec.studio", 2


@dataclass(frozen=True)
class Version:
    """A text, and what is known of its edits.

    Attributes
    ----------
    text
        The text of the spec.
    identities
        The identities of its edits; of a text that cannot be read, of those of `held`.
    held
        The last text that could be read, where this one cannot; None where it can.
    """

    text: str
    identities: Identities
    held: str | None = None

    @property
    def readable(self) -> str:
        """The text, or else the last one that could be read."""
        return self.text if self.held is None else self.held

    @property
    def length(self) -> int:
        """The number of characters."""
        return len(self.text) + len(self.held or "")

    @staticmethod
    def parse(state: dict[str, Any]) -> Version:
        """Read a version from plain values."""
        held = state["held"]
        identities = tuple(map(int, state["identities"]))
        return Version(str(state["text"]), identities, None if held is None else str(held))


@dataclass(frozen=True)
class StoredDraft:
    """A draft in the form in which it is kept.

    Attributes
    ----------
    present, revision
        The text of the spec, and how often it was changed.
    past, future
        The texts that undo and redo go to.
    saved
        The SHA-256 of the spec's file as it was last read or written; None where there was none.
    executed
        The digest of the content that was executed last; None where there is none.
    """

    present: Version
    revision: int
    past: tuple[Version, ...]
    future: tuple[Version, ...]
    saved: str | None
    executed: str | None

    def write(self, path: Path) -> None:
        """Keep the draft of the spec at `path`. Raises `FileError`."""
        folder = store_folder(path)
        ignore = folder / ".gitignore"
        if not ignore.is_file():
            write(ignore, b"*\n")
        state = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write(folder / "draft.json", json.dumps(state).encode())

    @staticmethod
    def read(path: Path) -> StoredDraft | None:
        """Read the draft of the spec at `path`; None where there is none.

        Raises `FileError` where the draft is damaged.
        """
        file = store_folder(path) / "draft.json"
        if not file.is_file():
            return None
        try:
            return StoredDraft._parse(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{file} is not a draft of this version of editspec.",
                "Remove the file; the spec itself is untouched.",
            ) from error

    @staticmethod
    def _parse(state: dict[str, Any]) -> StoredDraft:
        if (state["format"], state["version"]) != (FORMAT, VERSION):
            raise KeyError("format")
        saved, executed = state["saved"], state["executed"]
        return StoredDraft(
            present=Version.parse(state["present"]),
            revision=int(state["revision"]),
            past=tuple(map(Version.parse, state["past"])),
            future=tuple(map(Version.parse, state["future"])),
            saved=None if saved is None else str(saved),
            executed=None if executed is None else str(executed),
        )


def lock_spec(path: Path) -> AbstractContextManager[object]:
    """Keep other studios away from the spec at `path` for as long as the lock is held.

    Raises `UsageError` where another studio has it open, and `FileError` where it cannot be locked.
    """
    try:
        return FileLock(store_folder(path) / "lock").acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{path} is open in another studio.", "Use that one, or stop it first."
        ) from error
    except OSError as error:
        raise FileError(
            f"{path.parent} cannot be written.",
            "Give the spec a folder that you may write into, on a disk that is not full.",
        ) from error


def remove_abandoned_parts(path: Path) -> None:
    """Remove what killed studios left half-written in the project of a spec."""
    remove_abandoned(store_folder(path))
    remove_abandoned(path.parent, f".{glob.escape(path.name)}*.part")
    masks = path.parent / MASKS
    # A link may lead out of the project, where nothing is removed.
    if not masks.is_symlink():
        remove_abandoned(masks, ".*.png.*.part")


def store_folder(path: Path) -> Path:
    """Return the folder in which the draft of the spec at `path` is kept."""
    return path.with_name(f".{path.name}.studio")


def read_spec(path: Path) -> tuple[str | None, str | None]:
    """Read the text of a spec and its SHA-256; both None where there is no file."""
    if not path.exists():
        return None, None
    text = read_document(path).text.replace("\r\n", "\n")
    return text, hash_text(text)


def hash_text(content: str | bytes) -> str:
    """Return the SHA-256 of a text, or of bytes, as hexadecimal digits."""
    if isinstance(content, str):
        content = content.encode()
    return hashlib.sha256(content).hexdigest()
