"""The draft of a spec in its project folder: its text, its revisions, its masks.

The text is the whole state. It is kept after every change, in a folder beside the spec that git
ignores, with the masks that were painted; `Draft.save` writes both into the project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

from editspec.studio.draft_store import (
    StoredDraft,
    Version,
    hash_text,
    read_spec,
    store_folder,
)
from editspec.studio.identities import Identities, follow_edits, new_identities
from editspec.studio.masks import MaskStore
from editspec.studio.parsed import (
    OFF,
    digest_content,
    edits_of,
    find_texts,
    is_readable,
    parse_once,
    show_all_edits,
)
from editspec.studio.refusals import ChangedOutside, Conflict, Missing
from editspec.studio.sandbox import Sandbox
from editspec.studio.spec_editor import replace_masks
from editspec_compiler import LoadedSpec, Problem, SpecError
from editspec_compiler.abbreviations import find_row_files, write_out
from editspec_compiler.document import MAX_BYTES, Document, parse
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.schema import PLURALS, Place
from editspec_compiler.references import load_document, open_libraries
from editspec_compiler.spec_folder import ProjectFolder
from editspec_compiler.uses import find_uses, is_used, resolve_uses
from editspec_compiler.validation import check, fit
from editspec_compiler.visit import find_files
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.files import write

PAST_COUNT, PAST_LENGTH = 100, 2**24
"""Texts that undo can go back to, and their characters together, at most."""

NEW_SPEC = """\
version: 1
model: {{family: {family}, weights: {weights}{code}}}
edits:
  - name: edit-1
{fields}"""


@dataclass
class Draft:
    """A spec that is being edited.

    Attributes
    ----------
    path
        The file of the spec, in the project folder.
    sandbox
        The files and the model that the text may name.
    present, revision
        The present text, and the number of changes that led to it.
    past, future
        The texts that undo and redo go to.
    saved
        The SHA-256 of the spec's file as it was last read or written; None where there is none yet.
    executed
        The digest of the content that was executed last, which is executed again when the server
        starts; None where there is none.
    lock
        Held while the draft changes, or is read as a whole.
    """

    path: Path
    sandbox: Sandbox
    present: Version
    revision: int = 0
    past: list[Version] = field(default_factory=list)
    future: list[Version] = field(default_factory=list)
    saved: str | None = None
    executed: str | None = None
    lock: RLock = field(default_factory=RLock)

    @staticmethod
    def open(path: Path, new: str) -> Draft:
        """Open the draft of the spec at `path`, or else the spec, or else `new`.

        Raises `SpecError` and `FileError`.
        """
        on_disk, digest = read_spec(path)
        opened = new if on_disk is None else on_disk
        sandbox = Sandbox.around(path.parent, parse(opened, path.name))
        present = Version(opened, new_identities(edits_of(opened, path.name)))
        draft = Draft(path, sandbox, present, saved=digest)
        draft._restore(on_disk)
        draft.store()
        return draft

    @property
    def file(self) -> str:
        """The name of the spec's file."""
        return self.path.name

    @property
    def text(self) -> str:
        """The present text."""
        return self.present.text

    @property
    def content(self) -> str:
        """The digest of what a build sees of the text."""
        return digest_content(self.text, self.file)[-1]

    @property
    def is_executed(self) -> bool:
        """Whether a build of the text was done: what was executed last has the same content."""
        return self.executed == self.content

    @property
    def folder(self) -> ProjectFolder:
        """Folder that names of files are relative to."""
        trees: dict[str, Path] = {}
        if any(map(is_used, self.edits())):
            with suppress(SpecError, EditError):
                trees = self._resolve(self.document_in_sandbox())[1]
        return ProjectFolder(self.path.parent, store_folder(self.path), trees)

    @property
    def masks(self) -> MaskStore:
        """The masks that were painted."""
        return MaskStore(self.path, store_folder(self.path), self.sandbox.folder)

    @property
    def is_saved(self) -> bool:
        """Whether the text is the one that was last saved."""
        return self.saved == hash_text(self.text)

    @property
    def is_changed_outside(self) -> bool:
        """Whether another program has changed the spec's file."""
        return read_spec(self.path)[1] != self.saved

    def require(self, revision: int) -> None:
        """Raise a `Conflict` unless the text is still that of `revision`."""
        if revision != self.revision:
            raise Conflict(
                f"The spec was changed elsewhere: this was made on revision {revision}, and it is "
                f"at {self.revision}."
            )

    def change(self, text: str) -> None:
        """Make `text` the text. Raises `UsageError` where it cannot be a spec's."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise UsageError(
                f"A spec has at most {MAX_BYTES} bytes.", "Put masks and latents into files."
            )
        # JSON can carry half of a surrogate pair, which UTF-8 cannot encode.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(
                "The text holds half of a character, which a file cannot hold.",
                "Type the character again.",
            )
        text = text.replace("\r\n", "\n")
        if text == self.text:
            return
        following = self._follow(text)
        self._remember(self.present)
        self.future = []
        self._become(following)

    def undo(self) -> None:
        """Go back to the text before, if there is one."""
        if self.past:
            self.future.append(self.present)
            self._become(self.past.pop())

    def redo(self) -> None:
        """Go on to the text that was undone, if there is one."""
        if self.future:
            self.past.append(self.present)
            self._become(self.future.pop())

    def prepare(self, text: str | None = None) -> None:
        """Parse a text that is about to be used, by default the present one.

        To be called without the lock: a large text takes long, and is then found in a cache.
        """
        given = self.text if text is None else text.replace("\r\n", "\n")
        if len(given) > MAX_BYTES:
            return
        for each in {given, show_all_edits(given)}:
            with suppress(SpecError):
                parse_once(each, self.file)

    def document(self) -> Document:
        """Parse the text with all its edits, on and off. Raises `SpecError`."""
        return parse_once(show_all_edits(self.text), self.file)

    def document_in_sandbox(self) -> Document:
        """Parse the text. Raises `SpecError` where it leaves the sandbox, too."""
        document = self.document()
        if outside := self.sandbox.problems(document):
            raise SpecError(document.file, outside, document.text)
        return document

    def edits(self) -> list[Any]:
        """List the edits of the text, on or off.

        The edits need not fit the language. A text that cannot be read has none.
        """
        return edits_of(self.text, self.file)

    def edit(self, number: int) -> dict[str, Any]:
        """Return edit `number` of all as the text has it. Raises `Missing`."""
        edits = self.edits()
        if number >= len(edits) or not isinstance(edits[number], dict):
            raise Missing(f"There is no edit {number}.")
        found: dict[str, Any] = edits[number]
        return found

    def shown_edit(self, number: int) -> dict[str, Any]:
        """Return edit `number` as the page shows it: one of another spec as it is written there.

        What cannot be found there is shown as the text has it, and nothing of what is not an edit.
        """
        edit: Any = self.edits()[number]
        if is_used(edit):
            with suppress(SpecError, EditError):
                edit = self._resolve(self.document_in_sandbox())[0].data["edits"][number]
        return edit if isinstance(edit, dict) else {}

    def written_edit(self, number: int) -> dict[str, Any]:
        """Return edit `number` with the rows of its files, as far as it may name them.

        Raises `Missing`.
        """
        edit, document = self.edit(number), self.document()
        if self.sandbox.problems(document):
            return edit
        with suppress(SpecError, EditError):
            document, _ = self._resolve(document)
        written: dict[str, Any] = write_out(document, self.path.parent).data["edits"][number]
        return written

    def _resolve(self, document: Document) -> tuple[Document, dict[str, Path]]:
        """Put the edits of other specs into their places; return the folders of what is from git.

        The document is one of the sandbox. Raises `SpecError` and `EditError` where the lock or
        what it pins is not as it should be.
        """
        libraries = open_libraries(document, self.path, default_cache())
        return resolve_uses(document, libraries), libraries.trees

    def place(self, number: int, role: str, index: int = 0) -> Place:
        """Return the source or target of an edit, or entry `index` of its context.

        Of a place of several images, the first is returned. Raises `Missing`, and `SpecError` where
        the text leaves the sandbox.
        """
        self.edit(number)
        self.document_in_sandbox()
        given = self.shown_edit(number).get(role)
        if role == "context":
            entries = given if isinstance(given, list) else []
            given = entries[index] if index < len(entries) else None
        fields = given if isinstance(given, dict) else {}
        # Other kinds of sources have neither, and do not fit a place.
        selected = {name: fields[name] for name in ("latent", "mask") if name in fields}
        for plural, singular in PLURALS.items():
            if plural in fields:
                values = fields[plural] or [None]
                selected[singular] = values[0] if isinstance(values, list) else values
        # Checked once more: where the edit is wrong, the walk over the document may have taken the
        # source for another kind, and have missed these files.
        for _, name in find_files(Place, selected):
            if not self.sandbox.holds(name):
                raise UsageError(
                    f"{name} lies outside of the project folder.",
                    "Copy the file into the folder of the spec.",
                )
        place: Place | None = fit(Place, selected)
        if place is None:
            raise Missing(f"Edit {number} has no {role} with a mask here.")
        return place

    def switched_off(self) -> list[bool]:
        """Tell for every edit of the text whether it is switched off."""
        lines, positions = self.text.split("\n"), self.document().positions
        found = []
        for number in range(len(self.edits())):
            line, _ = positions["edits", number]
            found.append(lines[line - 1].startswith(OFF))
        return found

    def active_identities(self, stop: int | None = None) -> Identities:
        """List the identities of the edits that are on, of those before `stop`."""
        if not self.edits():
            return ()
        off = self.switched_off()[:stop]
        pairs = zip(self.present.identities, off, strict=False)
        return tuple(identity for identity, is_off in pairs if not is_off)

    def has_active_edits(self) -> bool:
        """Tell whether an edit is on, right or wrong, so that there is a build to do."""
        return bool(self.active_identities()) or bool(self._problems_of_no_list())

    def problems(self) -> list[Problem]:
        """List the problems of the spec, or else its warnings.

        Without an edit that is on, there are none.
        """
        if problems := self._problems_of_no_list():
            return problems
        if not self.has_active_edits():
            return []
        return self._problems_of_loading()

    def _problems_of_no_list(self) -> list[Problem]:
        """List the problems of a text that has no list of edits."""
        try:
            edits = self.document().data.get("edits", 0)
        except SpecError as error:
            return list(error.problems)
        if edits is None or isinstance(edits, list):
            return []
        return self._problems_of_loading()

    def _problems_of_loading(self) -> list[Problem]:
        try:
            return list(self.load().warnings)
        except SpecError as error:
            return list(error.problems)
        except EditError as error:
            return [Problem(error.message, hint=error.hint, code=error.code)]

    def load(self) -> LoadedSpec:
        """Load the spec without the edits that are off.

        Raises `SpecError` and `EditError`.
        """
        document = parse_once(self.text, self.file)
        # Before the document is loaded: loading opens the files that it names.
        if outside := self.sandbox.problems(document):
            problems = [*outside, *document.problems]
            # Without rows of files that may not be opened, the rest is not looked at.
            rows = dict(find_row_files(document)).values()
            if all(map(self.sandbox.holds, rows)) and not any(find_uses(document)):
                document = write_out(document, self.path.parent)
                problems = [*outside, *document.problems, *check(document)[1]]
            raise SpecError(document.file, problems, document.text)
        return load_document(document, self.path, drafts=store_folder(self.path))

    def load_alone(self, number: int, changes: dict[str, Any] | None = None) -> LoadedSpec:
        """Load the spec with edit `number` of all as its only one, on or off.

        A source or target that the edit still lacks is filled in from a place that it has.
        `changes` replaces some of its fields. Raises `SpecError` and `EditError`.
        """
        document, trees = self._resolve(self.document_in_sandbox())
        edit = dict(document.data["edits"][number]) | (changes or {})
        if "pairs" not in edit:
            places = [edit.get("target"), edit.get("source"), *(edit.get("context") or [])]
            # Of the context, too, but for what stands for the rows of a file.
            named = (each for each in places if isinstance(each, dict) and "file" not in each)
            place = next(named, None)
            edit = {"source": place, "target": place} | edit
        return self._load_with(document, [edit], trees)

    def load_without_edits(self) -> LoadedSpec:
        """Load the spec of the unedited model. Raises `SpecError` and `EditError`."""
        return self._load_with(self.document_in_sandbox(), [])

    def _load_with(
        self, document: Document, edits: list[Any], trees: Mapping[str, Path] | None = None
    ) -> LoadedSpec:
        """Load a document with other edits, and without checks, which may be about its own."""
        rest = {key: value for key, value in document.data.items() if key != "checks"}
        text = json.dumps(rest | {"edits": edits})
        drafts = store_folder(self.path)
        return load_document(parse(text, self.file), self.path, drafts=drafts, trees=trees)

    def add_mask(self, url: str) -> str:
        """Keep a mask that was painted as a draft, and return its name in a spec.

        Raises `MaskError` where the data URL is not a mask.
        """
        return self.masks.add(mask_image(url, self.folder, 0, legacy=False))

    def name_masks(self) -> None:
        """Replace the data URLs of masks in the text by names of files."""
        names = {}
        for path, value in find_texts(self.document()):
            if not value.startswith("data:") or path[-1] == "weights":
                continue
            try:
                names[value] = self.add_mask(value)
            except MaskError:
                # The text stays as it is, and the compiler says what is wrong with the mask.
                continue
        self.change(replace_masks(self.text, self.file, names))

    def save(self, *, overwrite: bool) -> None:
        """Make the text the spec. The caller has looked for its mistakes.

        Raises `Conflict` where another program has changed the file and it is not to be
        overwritten.
        """
        if self.is_changed_outside and not overwrite:
            raise ChangedOutside(
                f"{self.file} was changed outside of the studio since it was opened."
            )
        before, _ = read_spec(self.path)
        # Before the spec: whoever reads it finds the masks that it names.
        self.masks.save(self.text)
        write(self.path, self.text.encode())
        remembered = [each.readable for each in (*self.past, *self.future)]
        self.masks.remove_unused(self.text, before or "", remembered)
        self.saved = hash_text(self.text)
        self.store()

    def snapshot(self) -> Draft:
        """Copy the draft as it is now, to look at it without the lock."""
        return replace(self, past=list(self.past), future=list(self.future), lock=RLock())

    def held(self) -> Draft:
        """Copy the draft, with the last text that could be read where the present one cannot."""
        return replace(self.snapshot(), present=replace(self.present, text=self.present.readable))

    def store(self) -> None:
        """Write the draft into its folder beside the spec."""
        StoredDraft(
            present=self.present,
            revision=self.revision,
            past=tuple(self.past),
            future=tuple(self.future),
            saved=self.saved,
            executed=self.executed,
        ).write(self.path)

    def _follow(self, text: str) -> Version:
        """Make the version of a text that follows the present one."""
        now = self.present
        if not is_readable(text, self.file):
            return Version(text, now.identities, now.readable)
        before, after = edits_of(now.readable, self.file), edits_of(text, self.file)
        # Undo may bring back any edit of the past with its results.
        used = [each for version in self.past for each in version.identities]
        return Version(text, follow_edits(before, now.identities, after, used))

    def _remember(self, version: Version) -> None:
        self.past = [*self.past, version][-PAST_COUNT:]
        while sum(each.length for each in self.past) > PAST_LENGTH:
            self.past.pop(0)

    def _become(self, version: Version) -> None:
        self.present = version
        self.revision += 1
        self.store()

    def _restore(self, on_disk: str | None) -> None:
        """Continue with the stored draft, where there is one.

        Where the draft was saved and the file has changed since, the text of the file is taken.
        """
        stored = StoredDraft.read(self.path)
        if stored is None:
            return
        self.revision, self.executed = stored.revision, stored.executed
        self.past, self.future = list(stored.past), list(stored.future)
        was_saved = stored.saved == hash_text(stored.present.text)
        opened, self.present = self.text, stored.present
        if was_saved and on_disk is not None and on_disk != self.text:
            following = self._follow(opened)
            self._remember(self.present)
            self.present = following
            self.revision += 1
            return
        self.saved = stored.saved
