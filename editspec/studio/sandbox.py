"""Limits of a spec whose text comes from a browser.

The text may name files of its project folder, and whatever the spec named when it was opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.resources import locate_weights
from editspec_compiler.abbreviations import find_row_files, write_out
from editspec_compiler.document import Document, entries, read_document
from editspec_compiler.problems import Problem, SpecError, SpecPath
from editspec_compiler.references import open_libraries
from editspec_compiler.registry import family_of, spec_type
from editspec_compiler.use_address import UseAddress
from editspec_compiler.uses import find_uses, name_of, resolve_uses
from editspec_compiler.visit import find_files
from editspec_runtime.codes import Code
from editspec_runtime.errors import EditError, FileError
from editspec_runtime.families.registry import FAMILIES, loading_fields
from editspec_runtime.io.cache import default_cache
from editspec_runtime.io.downloads import is_remote

PLAIN = ("family", "weights")
"""The keys of ``model`` that leave the network to the family's own code."""


@dataclass(frozen=True)
class Sandbox:
    """The files and the model that a text may name.

    Attributes
    ----------
    folder
        The project folder.
    opened
        The spec as it was opened.
    model
        The model of the spec that was opened; its weights may lie anywhere.
    files
        The files that the opened spec names; they may lie anywhere, too.
    sources
        What the opened spec uses from git.
    """

    folder: Path
    opened: Document
    model: dict[str, Any]
    files: frozenset[Path]
    sources: frozenset[str] = frozenset()

    @staticmethod
    def around(folder: Path, opened: Document) -> Sandbox:
        """Make the sandbox of a project.

        Files that `opened` names are allowed: a person has opened it at the command line.
        """
        uses = [each for _, used in find_uses(opened) for each in _walk_use(used, folder, set())]
        sources = frozenset(str(each.source) for each, _ in uses if each.source is not None)
        libraries = [place for _, place in uses]
        resolved = _resolve_uses(opened, folder)
        rows = [name for _, name in find_row_files(resolved)]
        named = [name for _, name in _find_files(write_out(resolved, folder))]
        files = (*libraries, *(_resolve(folder, name) for name in [*rows, *named]))
        trusted = frozenset(path for path in files if path is not None)
        return Sandbox(folder.resolve(), opened, _find_network(opened), trusted, sources)

    def problems(self, document: Document) -> list[Problem]:
        """List the files and models that a document may not name.

        No file that the document names is opened, but for files of rows that it may name: what
        their rows name is looked at, too.
        """
        found = self._refuse_uses(document)
        if not found:
            document = _resolve_uses(document, self.folder)
            found += self._refuse_files(document, find_row_files(document))
        if not found:
            document = write_out(document, self.folder)
            found += self._refuse_files(document, _find_files(document))
        network = _find_network(document)
        if network != self.model and (refusal := self._refuse_network(network)):
            hint = "start editspec studio with a spec that has this model"
            found.append(document.problem(("model",), refusal, hint, code=Code.OUTSIDE_OF_PROJECT))
        return found

    def _refuse_uses(self, document: Document) -> list[Problem]:
        """List the libraries that a document, or a library that it uses, may not name."""
        found = []
        for path, address in find_uses(document):
            for inner, place in _walk_use(address, self.folder, set()):
                message = f"{inner.file} lies outside of the project folder"
                hint = "copy the file into the folder of the spec"
                allowed = place is not None and self._holds_place(place)
                if inner.source is not None:
                    message = "the studio fetches nothing that was not opened with it"
                    hint = "start editspec studio with a spec that uses it"
                    allowed = str(inner.source) in self.sources
                if not allowed:
                    problem = document.problem(path, message, hint, code=Code.OUTSIDE_OF_PROJECT)
                    found.append(problem)
                    # The walk would open it next.
                    break
        return found

    def _refuse_files(
        self, document: Document, named: Iterable[tuple[SpecPath, str]]
    ) -> list[Problem]:
        found = []
        for path, name in named:
            if not self.holds(name):
                hint = "copy the file into the folder of the spec"
                message = f"{name} lies outside of the project folder"
                found.append(document.problem(path, message, hint, code=Code.OUTSIDE_OF_PROJECT))
        return found

    def holds(self, name: str) -> bool:
        """Tell whether a name is that of a file that may be opened."""
        # With the links resolved: a link in the folder may lead out of it.
        place = _resolve(self.folder, name)
        return place is not None and self._holds_place(place)

    def _holds_place(self, place: Path) -> bool:
        """Tell whether a file may be opened, whose path has no links."""
        return place in self.files or place.is_relative_to(self.folder)

    def _refuse_network(self, model: dict[str, Any]) -> str:
        """Say why a model that was not opened may not be loaded; empty where it may."""
        weights = model.get("weights")
        own_network = [key for key in loading_fields() if key not in PLAIN]
        names_code = any(model.get(key) is not None for key in own_network)
        family = FAMILIES.get(str(model.get("family")))
        if names_code or (family is not None and family.runs_code):
            return "the studio runs no network that was not opened with it"
        if not isinstance(weights, str) or weights.startswith("builtin:"):
            return ""
        if is_remote(weights):
            return "the studio fetches no weights that were not opened with it"
        try:
            place = locate_weights(weights, self.folder).resolve()
        except (FileError, OSError, ValueError):
            return f"{weights} is not a file"
        if place.is_relative_to(self.folder):
            return ""
        return f"{weights} lies outside of the project folder"


def _walk_use(
    address: UseAddress, folder: Path, seen: set[tuple[Path, str]]
) -> Iterator[tuple[UseAddress, Path | None]]:
    """Yield an address and the place of its file, which is opened then, and what that edit uses.

    The place of what is from git is None; it uses nothing but its own repository.
    """
    place = None if address.source is not None else _resolve(folder, address.file)
    yield address, place
    if place is None or (place, address.edit) in seen:
        return
    seen.add((place, address.edit))
    with suppress(SpecError, EditError):
        library = read_document(place)
        edits = entries(library.data, "edits")
        for path, inner in find_uses(library):
            if name_of(edits[int(path[1])]) == address.edit:
                yield from _walk_use(inner, (folder / address.file).parent, seen)


def _resolve_uses(document: Document, folder: Path) -> Document:
    """Put the edits of other specs into their places, where they can be found.

    Loading says what cannot be found, and opens none of the files that are named there.
    """
    with suppress(SpecError, EditError):
        libraries = open_libraries(document, folder / document.file, default_cache())
        return resolve_uses(document, libraries)
    return document


def _find_network(document: Document) -> dict[str, Any]:
    """Collect the values that determine which network a document loads."""
    model = document.data.get("model")
    if not isinstance(model, dict):
        return {}
    weights = model.get("weights")
    keys = loading_fields()
    # The content of an address may change: the digest of remote weights determines what is loaded.
    if isinstance(weights, str) and is_remote(weights):
        keys = (*keys, "digest")
    return {key: model.get(key) for key in keys}


def _find_files(document: Document) -> Iterator[tuple[SpecPath, str]]:
    """Yield the path in the document and the name of every file except the weights.

    The document is written out, and need not fit the language. The compiler opens files by this
    walk, too, so that no file is opened that was not checked.
    """
    yield from find_files(spec_type(family_of(document)), document.data)


def _resolve(folder: Path, name: str) -> Path | None:
    """Resolve a name with the links on its way; None where it leads nowhere."""
    try:
        return (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
