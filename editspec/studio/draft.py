"""The draft of a spec in its project folder: its text, its revisions, its masks.

The text is the whole state. It is kept after every change, in a folder beside the spec that git
ignores, so that it survives whatever ends the server; `save` makes it the spec. Masks are files of
the project from the moment they are drawn, named by their content and never overwritten, so that an
earlier text finds the masks that it names.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from editspec.studio.sandbox import Bounds
from editspec.studio.spec_editor import replace_masks, switched_off, unfolded
from editspec_compiler import LoadedSpec, Problem, SpecError
from editspec_compiler.document import MAX_BYTES, Document, parse, read_document
from editspec_compiler.modalities.image.masks import MaskError, mask_image
from editspec_compiler.references import load_document
from editspec_compiler.schema import check
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.errors import EditError, FileError, UsageError
from editspec_runtime.io.files import write

FORMAT = "editspec.studio"
KEPT, KEPT_LENGTH = 100, 2**24
"""Texts that can be gone back to, and their characters together, at most."""

NEW = """\
version: 1
model: {{family: {family}, weights: {weights}}}
edits:
  - name: edit-1
    layer: {layer}
    rank: 4
    solver: {solver}
"""


class Conflict(Exception):
    """A change of a text that is no longer there: another tab, or another program, was first."""


@dataclass
class Draft:
    """A spec that is being edited.

    Attributes
    ----------
    path
        Of the spec; the folder that it lies in is the project's.
    bounds
        What its text may name.
    text, revision
        As it is now; the revision counts changes.
    past, future
        The texts that undo and redo go to.
    saved
        The SHA-256 of the spec's file as it was last read or written; None where there is none yet.
    masks
        The masks that the studio made, by their names.
    executed
        Whether the text was executed, so that it is again when the server starts.
    """

    path: Path
    bounds: Bounds
    text: str
    revision: int = 0
    past: list[str] = field(default_factory=list)
    future: list[str] = field(default_factory=list)
    saved: str | None = None
    masks: set[str] = field(default_factory=set)
    executed: bool = False
    lock: RLock = field(default_factory=RLock)

    @staticmethod
    def open(path: Path, new: str) -> Draft:
        """The draft of the spec at `path`, or the spec, or a `new` one. Raises `SpecError` and
        `FileError`.
        """
        on_disk, digest = _read(path)
        opened = on_disk if on_disk is not None else new
        bounds = Bounds.of(path.parent, parse(opened, path.name))
        draft = Draft(path, bounds, opened, saved=digest)
        draft._restore(on_disk)
        draft.keep()
        return draft

    @property
    def store(self) -> Path:
        """The folder of the draft."""
        return _store(self.path)

    @property
    def file(self) -> str:
        """The spec's name in its messages."""
        return self.path.name

    @property
    def is_saved(self) -> bool:
        """Whether the text is what was last saved."""
        return self.saved == _sha256(self.text)

    @property
    def changed_outside(self) -> bool:
        """Whether the spec's file is no longer what was last read or written."""
        return _read(self.path)[1] != self.saved

    def require(self, revision: int) -> None:
        """Raise a `Conflict` unless the text is still that of `revision`."""
        if revision != self.revision:
            raise Conflict(
                f"The spec was changed elsewhere: this was made on revision {revision}, and it is at "
                f"{self.revision}."
            )

    def change(self, text: str) -> None:
        """Make `text` the text. Raises `UsageError` where it is larger than a spec may be."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise UsageError(f"A spec has at most {MAX_BYTES} bytes.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(
                "The text holds halves of characters, which no file can.", "Type it again."
            )
        text = text.replace("\r\n", "\n")
        if text == self.text:
            return
        self._remember(self.text)
        self.future = []
        self._become(text)

    def undo(self) -> None:
        """Go back to the text before, if there is one."""
        if self.past:
            self.future.append(self.text)
            self._become(self.past.pop())

    def redo(self) -> None:
        """Go on to the text that was undone, if there is one."""
        if self.future:
            self.past.append(self.text)
            self._become(self.future.pop())

    def document(self) -> Document:
        """All edits, those that are switched off included. Raises `SpecError` where the text cannot
        be read.
        """
        return _parsed(unfolded(self.text), self.file)

    def edits(self) -> list[Any]:
        """The edits as the text has them, on or off, whether they fit the language or not; none if
        it is unreadable.
        """
        try:
            edits = self.document().data.get("edits")
        except SpecError:
            return []
        return edits if isinstance(edits, list) else []

    def is_off(self, number: int) -> bool:
        """Whether edit `number` of all is switched off."""
        return switched_off(self.text, self.document().positions[("edits", number)][0])

    def active_names(self, stop: int | None = None) -> list[str]:
        """The names of the edits that are on, of those before `stop`."""
        return [
            str(edit.get("name"))
            for number, edit in enumerate(self.edits()[:stop])
            if isinstance(edit, dict) and not self.is_off(number)
        ]

    def has_active_edits(self) -> bool:
        """Whether there is anything to build: not where every edit is switched off, or none is
        left.
        """
        return bool(self.active_names()) or bool(self._unread())

    def problems(self) -> list[Problem]:
        """All that is wrong with the spec; with no edit that is on, nothing is."""
        if unread := self._unread():
            return unread
        if not self.has_active_edits():
            return []
        try:
            self.load()
        except SpecError as error:
            return list(error.problems)
        except EditError as error:
            return [Problem(error.message, hint=error.hint)]
        return []

    def _unread(self) -> list[Problem]:
        try:
            edits = self.document().data.get("edits", 0)
            if edits is None or isinstance(edits, list):
                return []
            self.load()
        except SpecError as error:
            return list(error.problems)
        return []

    def load(self) -> LoadedSpec:
        """The spec without the edits that are switched off. Raises `SpecError` and `EditError`, as
        the compiler.
        """
        document = _parsed(self.text, self.file)
        if outside := self.bounds.problems(document):
            problems = [*outside, *document.problems, *check(document)[1]]
            raise SpecError(document.file, problems, document.text)
        return load_document(document, self.path)

    def load_alone(self, number: int, changes: dict[str, Any] | None = None) -> LoadedSpec:
        """Edit `number` of all as the only one, on or off; what it still lacks is filled in from
        what it has.

        `changes` replaces some of its fields. Raises as `load`.
        """
        document = self.document()
        if outside := self.bounds.problems(document):
            raise SpecError(document.file, outside, document.text)
        edit = dict(document.data["edits"][number]) | (changes or {})
        if "pairs" not in edit:
            places = [edit.get("target"), edit.get("source"), *(edit.get("context") or [])]
            place = next((place for place in places if isinstance(place, dict)), None)
            edit = {"source": place, "target": place} | edit
        # Without checks, which may be about other edits.
        rest = {key: value for key, value in document.data.items() if key != "checks"}
        text = json.dumps(rest | {"edits": [edit]})
        return load_document(parse(text, self.file), self.path)

    def add_mask(self, url: str, latent: int | None) -> str:
        """Keep a mask that was drawn, and return its name. Raises `MaskError` where it is none."""
        image = mask_image(url, self.path.parent, 0, legacy=False)
        name = f"masks/{'' if latent is None else f'latent-{latent}-'}{_sha256(image.tobytes())[:10]}.png"
        place = self.path.parent / name
        if not (self.path.parent / "masks").resolve().is_relative_to(self.bounds.folder):
            raise UsageError(
                "The folder masks leads out of the project folder.", "Remove that link."
            )
        if not place.is_file():
            write(place, png(image))
        self.masks.add(name)
        return name

    def name_masks(self) -> None:
        """Write masks that stand in the text as data URLs to files, and name these instead."""
        document = self.document()
        named = {}
        for path, value in _values(document):
            if isinstance(value, str) and value.startswith("data:") and path[-1] != "weights":
                try:
                    named[value] = self.add_mask(value, None)
                except MaskError:
                    continue  # the compiler says what is wrong with it
        self.change(replace_masks(self.text, self.file, named))

    def save(self, *, overwrite: bool) -> None:
        """Make the text the spec. Raises `Conflict` where the file was changed meanwhile, unless it
        may go.
        """
        self.name_masks()
        self.load()
        if self.changed_outside and not overwrite:
            raise Conflict(f"{self.file} was changed outside of the studio since it was opened.")
        write(self.path, self.text.encode())
        self.saved = _sha256(self.text)
        texts = [self.text, *self.past, *self.future]
        for name in sorted(self.masks):
            if not any(name in text for text in texts):
                (self.path.parent / name).unlink(missing_ok=True)
                self.masks.discard(name)
        self.keep()

    def keep(self) -> None:
        """Write the draft."""
        names = ("text", "revision", "past", "future", "saved", "executed")
        state = {name: getattr(self, name) for name in names} | {"masks": sorted(self.masks)}
        ignore = self.store / ".gitignore"
        if not ignore.is_file():
            write(ignore, b"*\n")
        write(
            self.store / "draft.json",
            json.dumps({"format": FORMAT, "version": 1, **state}).encode(),
        )

    def _remember(self, text: str) -> None:
        self.past = [*self.past, text][-KEPT:]
        while sum(map(len, self.past)) > KEPT_LENGTH:
            self.past.pop(0)

    def _become(self, text: str) -> None:
        self.text, self.executed = text, False
        self.revision += 1
        self.keep()

    def _restore(self, on_disk: str | None) -> None:
        """Take up the draft that was left, where there is one; a spec that changed under a saved
        draft counts.
        """
        place = self.store / "draft.json"
        if not place.is_file():
            return
        try:
            state = json.loads(place.read_text())
            if (state["format"], state["version"]) != (FORMAT, 1):
                raise KeyError("format")
            draft = Draft(
                self.path,
                self.bounds,
                str(state["text"]),
                int(state["revision"]),
                [str(text) for text in state["past"]],
                [str(text) for text in state["future"]],
                state["saved"],
                {str(name) for name in state["masks"]},
                bool(state["executed"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{place} is damaged: {error!r}.", "Remove it; the spec itself is untouched."
            ) from error
        own_masks = {name for name in draft.masks if Path(name).parts[:-1] == ("masks",)}
        self.revision, self.past, self.future, self.masks = (
            draft.revision,
            draft.past,
            draft.future,
            own_masks,
        )
        if draft.is_saved and on_disk is not None and on_disk != draft.text:
            self._remember(draft.text)
            self.revision += 1
            return
        self.text, self.saved, self.executed = draft.text, draft.saved, draft.executed


@lru_cache(maxsize=4)
def _parsed(text: str, file: str) -> Document:
    """What the same text holds, which is asked for more than once."""
    return parse(text, file)


def usual(architecture: Architecture) -> tuple[str, str]:
    """The layer and the solver of a new edit: behind the middle, where parts of objects are drawn,
    and fast.
    """
    layers = list(architecture.layers.values())
    layer = layers[len(layers) * 3 // 5]
    return layer.name, "closed-form" if layer.linear else "least-squares"


def held(path: Path) -> AbstractContextManager[object]:
    """Keeps other studios away from the spec at `path`. Raises `UsageError` where one has it
    open.
    """
    try:
        return FileLock(_store(path) / "lock").acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{path} is open in another studio.", "Use that one, or stop it first."
        ) from error
    except OSError as error:
        raise FileError(f"{path.parent} cannot be written: {error.strerror}.") from error


def _store(path: Path) -> Path:
    return path.with_name(f".{path.name}.studio")


def _values(document: Document) -> list[tuple[tuple[str | int, ...], Any]]:
    found = []
    for path in document.positions:
        value: Any = document.data
        for part in path:
            value = value[part]
        found.append((path, value))
    return found


def _read(path: Path) -> tuple[str | None, str | None]:
    """The text of the file at `path` and its SHA-256; None and None where there is none."""
    if not path.exists():
        return None, None
    text = read_document(path).text.replace("\r\n", "\n")
    return text, _sha256(text)


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def png(image: Image.Image) -> bytes:
    """A mask as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(image: Image.Image) -> str:
    """A mask as the language takes it in place of a file."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
