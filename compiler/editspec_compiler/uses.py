"""Put edits of libraries in the place of ``use:``. Imports no torch.

All that comes after, from the checks of the language to the digests, sees the edits as if they were
written out. Problems are shown where they are: in the library, or at the value that was given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from editspec_compiler.abbreviations import (
    find_excess,
    find_row_files,
    write_out,
    write_out_rows,
)
from editspec_compiler.document import Document, Locatable, entries, kind
from editspec_compiler.libraries import Home, Libraries, Library, LibraryError
from editspec_compiler.parameters import fill_references, find_references, find_type_misfit
from editspec_compiler.problems import (
    LINE_BREAK,
    Problem,
    RowPlace,
    SpecError,
    SpecPath,
    suggest,
)
from editspec_compiler.registry import family_of, spec_type
from editspec_compiler.schema import AnySpec, UsedEdit
from editspec_compiler.use_address import AddressError, UseAddress, read_address
from editspec_compiler.validation import check
from editspec_compiler.visit import fields_by_key, find_files
from editspec_runtime.codes import Code
from editspec_runtime.io.downloads import is_remote

USE = "use"
"""The key of an edit that stands in another spec."""

DEEPEST = 16
"""The most libraries that lead from one to the next."""

NOT_OF_HEAD = ("edits", "checks", "moved")
"""The keys of a library that are not about all of its edits."""


def resolve_uses(document: Document, libraries: Libraries) -> Document:
    """Put the edits that a document uses, and the defaults of its parameters, into their places.

    Without any, the document itself is returned. What cannot be put there is a problem of the
    document that is returned.

    Raises `LockError` where a library is not what the lock pins.
    """
    return _resolve(document, Home(libraries.folder), libraries, frozenset(), ())


def is_used(edit: Any) -> bool:
    """Whether an edit stands in another spec."""
    return isinstance(edit, dict) and USE in edit


def name_of(edit: Any) -> str:
    """Return the name of an edit as it is written; empty where it has none."""
    if not isinstance(edit, dict):
        return ""
    name = edit.get("name")
    if name is None and is_used(edit) and isinstance(edit[USE], str):
        return str(edit[USE].rpartition("#")[2])
    return name if isinstance(name, str) else ""


def find_uses(document: Document) -> Iterator[tuple[SpecPath, UseAddress]]:
    """Find where the edits of a document that can be read are used from."""
    for number, edit in enumerate(entries(document.data, "edits")):
        if is_used(edit) and isinstance(edit[USE], str):
            try:
                yield ("edits", number, USE), read_address(edit[USE])
            except AddressError:
                continue


def find_unresolved(document: Document) -> list[SpecPath]:
    """Find the edits of a resolved document for which nothing stands in their libraries."""
    found = []
    for number, edit in enumerate(entries(document.data, "edits")):
        written = document.find_written(("edits", number))
        if written[-1] == USE and isinstance(edit, dict) and edit.keys() <= {"name"}:
            found.append(written)
    return found


def find_asked(document: Document) -> tuple[str, ...]:
    """List the parameters of a library that have no default."""
    found = []
    for name, each in _declared(document).items():
        if isinstance(each, dict) and each.get("default") is None:
            found.append(name)
    return tuple(found)


def is_asking(error: SpecError) -> bool:
    """Whether nothing is wrong with a spec but that parameters have no values in it alone."""
    return all(problem.code == Code.PARAMETER_MISSING for problem in error.problems)


Chain = tuple[tuple[str, str], ...]
"""The libraries, with the edits in them, that led to a place."""


def _resolve(
    document: Document, home: Home, libraries: Libraries, open_names: frozenset[str], chain: Chain
) -> Document:
    """Resolve a document; references to the parameters `open_names` stay."""
    document = _fill_defaults(document, open_names)
    user = _User(document, home, libraries, chain)
    edits = []
    for number, edit in enumerate(entries(document.data, "edits")):
        edits.append(user.edit(("edits", number), edit) if is_used(edit) else edit)
    if not user.moves:
        return document
    return replace(
        document,
        data={**document.data, "edits": edits},
        moves=(*document.moves, user.moves),
        rows={**document.rows, **user.rows},
        problems=(*document.problems, *user.problems),
    )


def _fill_defaults(document: Document, open_names: frozenset[str]) -> Document:
    """Put the defaults of the parameters of a document in place of references to them."""
    declared = _declared(document)
    values = {}
    for name, each in declared.items():
        default = each.get("default") if isinstance(each, dict) else None
        if default is not None and name not in open_names:
            values[name] = default
    edits, problems = [], []
    moves: dict[SpecPath, SpecPath] = {}
    for number, edit in enumerate(entries(document.data, "edits")):
        filled: dict[SpecPath, str] = {}
        edits.append(fill_references(edit, values, filled) if isinstance(edit, dict) else edit)
        for path, name in filled.items():
            moves["edits", number, *path] = ("parameters", name, "default")
        for path, name in find_references(edit, ("edits", number)):
            if name not in values and name not in open_names:
                problems.append(_describe_open(document, path, name, declared))
    if not moves and not problems:
        return document
    return replace(
        document,
        data={**document.data, "edits": edits},
        moves=(*document.moves, moves),
        problems=(*document.problems, *problems),
    )


def _describe_open(
    document: Document, path: SpecPath, name: str, declared: Mapping[str, Any]
) -> Problem:
    """Say that a reference stands for nothing."""
    if name in declared:
        message = f"the parameter {name} has no default, and nothing gives it a value here"
        hint = "give it a default, or build a spec that uses this edit"
        return document.problem(path, message, hint, code=Code.PARAMETER_MISSING)
    if not name:
        message = "expected the name of a parameter, which is a text"
        return document.problem(path, message, "write {parameter: NAME}", code=Code.TYPE_WRONG)
    hint = suggest(name, list(declared)) if declared else "declare it under parameters:"
    message = f"there is no parameter {name} in {document.file}"
    return document.problem(path, message, hint, code=Code.PARAMETER_UNKNOWN)


def _declared(document: Document) -> dict[str, Any]:
    """Return the parameters that a document declares, which may not fit the language."""
    declared = document.data.get("parameters")
    return declared if isinstance(declared, dict) else {}


@dataclass(frozen=True)
class PlacedEdit:
    """An edit of a library that stands in the place of another.

    Attributes
    ----------
    document
        The library, in which the edit is resolved.
    path
        Where the edit is in it.
    """

    document: Document
    path: SpecPath

    def locate(self, path: SpecPath, *, at_key: bool) -> tuple[RowPlace, bool]:
        """Find a part of the edit in the file where it is written."""
        document = self.document
        written = document.find_written((*self.path, *path))
        row, written = document.find_row(written, at_key=at_key)
        line, column = document.find_place(written, at_key=at_key)
        return row or _place_in(document.file, document.text, line, column), True


def _place_in(file: str, text: str, line: int, column: int) -> RowPlace:
    """Return a place in the text of a library."""
    lines = LINE_BREAK.split(text)
    shown = lines[line - 1] if 0 < line <= len(lines) else ""
    return RowPlace(file, line, column, shown)


@dataclass
class _User:
    """Resolver of the edits of one document that are used from others.

    Attributes
    ----------
    document, home
        The document, and where it lies.
    libraries, chain
        What opens libraries, and those that led to this document.
    moves, rows, problems
        As in `Document`.
    """

    document: Document
    home: Home
    libraries: Libraries
    chain: Chain
    moves: dict[SpecPath, SpecPath] = field(default_factory=dict)
    rows: dict[SpecPath, Locatable] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def edit(self, path: SpecPath, edit: dict[str, Any]) -> dict[str, Any]:
        """Return the edit that is used at a path, with the values that are given there."""
        # What is wrong with an edit that stays unresolved only follows from what is said here.
        self.moves[path] = (*path, USE)
        found = self._open(path, edit)
        used: dict[str, Any] = {}
        if found is not None:
            used = self._fill(path, edit, *found)
        if edit.get("name") is not None:
            used["name"] = edit["name"]
            self.moves[*path, "name"] = (*path, "name")
        elif used:
            # A name that two edits have is one that this spec is to give.
            self.moves[*path, "name"] = path
        return used

    def _refuse(self, path: SpecPath, message: str, hint: str, code: Code) -> None:
        self.problems.append(self.document.problem(path, message, hint, code=code, at_key=True))

    def _open(self, path: SpecPath, edit: dict[str, Any]) -> tuple[UseAddress, Library, int] | None:
        """Open the library of an edit; return it with the number of the edit in it."""
        known = list(fields_by_key(UsedEdit))
        for key in edit:
            if key not in known:
                hint = (
                    f"{', '.join(known)} are all that an edit which is used says; all else is in "
                    "the library, whose parameters you choose by with:"
                )
                self._refuse((*path, key), f"unknown key {key}", hint, Code.KEY_UNKNOWN)
        where, given = (*path, USE), edit.get("with")
        if given is not None and not isinstance(given, dict):
            message = f"expected a mapping of parameters to values, found {kind(given)}"
            self._refuse((*path, "with"), message, "write with: {NAME: VALUE}", Code.TYPE_WRONG)
            return None
        if not isinstance(edit[USE], str):
            hint = UsedEdit.model_fields["use"].description or ""
            message = f"expected text, found {kind(edit[USE])}"
            self._refuse(where, message, hint, Code.TYPE_WRONG)
            return None
        try:
            address = read_address(edit[USE])
            library = self.libraries.open(address, self.home)
        except (AddressError, LibraryError) as error:
            code = error.code if isinstance(error, LibraryError) else Code.USE_UNREADABLE
            self._refuse(where, error.message, error.hint, code)
            return None
        except SpecError as error:
            for problem in error.problems:
                self._pass_on(where, problem, error.file, error.text)
            return None
        number = self._find_edit(where, library, address)
        return None if number is None else (address, library, number)

    def _find_edit(self, where: SpecPath, library: Library, address: UseAddress) -> int | None:
        """Find the edit of a name in a library that fits the spec; None where there is none."""
        head, problems = _read_head(library.document)
        for problem in problems:
            place = (*where, *problem.path)
            self._pass_on(place, problem, library.document.file, library.document.text)
        for message, hint in _find_misfits(self.document, library.document, head):
            self._refuse(where, message, hint, Code.USE_UNFIT)
        if family_of(self.document) != family_of(library.document):
            return None
        edits = entries(library.document.data, "edits")
        names = [name_of(edit) for edit in edits]
        place = (library.key, address.edit)
        if names.count(address.edit) != 1:
            several = names.count(address.edit)
            message = f"there is no edit {address.edit} in {library.document.file}"
            if several:
                message = f"{library.document.file} has {several} edits {address.edit}"
            known = [name for name in names if name]
            hint = suggest(address.edit, known) if known else "it has no edit with a name"
            self._refuse(where, message, hint, Code.USE_UNKNOWN)
            return None
        if place in self.chain or len(self.chain) == DEEPEST:
            names_on_the_way = [*(edit for _, edit in self.chain), address.edit]
            message = f"this leads in a circle: {' -> '.join(names_on_the_way)}"
            if place not in self.chain:
                message = f"more than {DEEPEST} libraries lead from one to the next"
            self._refuse(where, message, "write the edit out in one of them", Code.USE_CIRCULAR)
            return None
        return names.index(address.edit)

    def _fill(
        self,
        path: SpecPath,
        edit: dict[str, Any],
        address: UseAddress,
        library: Library,
        number: int,
    ) -> dict[str, Any]:
        """Resolve an edit in its library, and put the given values into it."""
        where, declared = (*path, USE), _declared(library.document)
        given = edit.get("with")
        values = dict(given) if isinstance(given, dict) else {}
        for name in [each for each in values if each not in declared]:
            hint = suggest(name, list(declared)) if declared else "leave it out"
            message = f"{library.document.file} has no parameter {name}"
            self._refuse((*path, "with", name), message, hint, Code.PARAMETER_UNKNOWN)
            del values[name]
        used = {name for _, name in find_references(library.document.data["edits"][number])}
        for name, each in declared.items():
            about = each if isinstance(each, dict) else {}
            if name in values:
                if misfit := find_type_misfit(about.get("type"), values[name]):
                    hint = _describe(name, about)
                    self._refuse((*path, "with", name), misfit, hint, Code.TYPE_WRONG)
            elif about.get("default") is None and name in used:
                message = f"{library.document.file} asks for a value of {name}"
                hint = f"write with: {{{name}: …}}; {_describe(name, about)}"
                self._refuse((*path, "with", name), message, hint, Code.VALUE_MISSING)
                values[name] = None
        chain = (*self.chain, (library.key, address.edit))
        resolved = _resolve_one(library, number, self.libraries, frozenset(values), chain)
        document = _write_names(resolved, library.home, address)
        edit_there = document.data["edits"][number]
        unresolved = edit_there.keys() <= {"name"} or _is_outside(document.problems)
        for problem in document.problems:
            # What is wrong with a part hides only what follows from that part.
            part = problem.path[2:] if problem.path[:1] == ("edits",) else problem.path
            place = where if unresolved else (*where, *part)
            self._pass_on(place, problem, document.file, document.text)
        if unresolved:
            return {}
        self.rows[where] = PlacedEdit(document, ("edits", number))
        filled: dict[SpecPath, str] = {}
        found = fill_references(edit_there, values, filled)
        for place, name in filled.items():
            self.moves[*path, *place] = (*path, "with", name)
        if misfit := find_excess(found):
            self._refuse(where, misfit, "name fewer values", Code.TEXT_TOO_LARGE)
            return {}
        return dict(found)

    def _pass_on(self, where: SpecPath, problem: Problem, file: str, text: str) -> None:
        """Tell a problem of a library at a place of the edit that uses it."""
        own = self.document.problem(where, problem.message, problem.hint, code=problem.code)
        row = problem.row or _place_in(file, text, problem.line, problem.column)
        self.problems.append(replace(own, path=where, row=row, warning=problem.warning))


def _describe(name: str, about: Mapping[str, Any]) -> str:
    """Say what a parameter is."""
    word = about.get("type")
    if not isinstance(word, str):
        return f"the library does not say of which type {name} is"
    said = f"{name} is of type {word}"
    return f"{said}: {about['description']}" if about.get("description") else said


def _resolve_one(
    library: Library, number: int, libraries: Libraries, open_names: frozenset[str], chain: Chain
) -> Document:
    """Resolve one edit of a library."""
    document, home = library.document, library.home
    # The others may need values that nobody gives here.
    alone: list[Any] = [None] * number
    alone.append(document.data["edits"][number])
    document = replace(document, data={**document.data, "edits": alone})
    return _resolve(document, home, libraries, open_names, chain)


def _write_names(document: Document, home: Home, address: UseAddress) -> Document:
    """Write out the rows of a library, and names of files as whoever uses the library sees them.

    Where it names a file that it may not, none of its files is opened.
    """
    problems = list(_find_outside(document, home, find_row_files(document)))
    if problems:
        return replace(document, problems=(*document.problems, *problems))
    document = write_out_rows(document, home.folder)
    # Written out, as only then all names are found. They are changed where they stand before.
    written = write_out(document, home.folder)
    back = replace(written, moves=written.moves[len(document.moves) :])
    named = [(back.find_written(path), name) for path, name in _find_names(written)]
    data, problems = copy.deepcopy(document.data), list(_find_outside(document, home, named))
    for path, name in {} if problems else dict(named).items():
        *above, last = path
        holder = data
        for key in above:
            holder = holder[key]
        holder[last] = home.move_name(name, address)
    return replace(document, data=data, problems=(*document.problems, *problems))


def _is_outside(problems: Iterable[Problem]) -> bool:
    """Whether a library names a file that it may not, so that none of its files is opened."""
    return any(problem.code == Code.OUTSIDE_OF_PROJECT for problem in problems)


def _find_outside(
    document: Document, home: Home, named: Iterable[tuple[SpecPath, str]]
) -> Iterator[Problem]:
    """Find the names of files that a library from git may not name."""
    for path, name in named:
        if not home.holds(name):
            message = f"{name} leads out of the repository of the library"
            hint = "a library of git names files of its own repository: put the file there"
            yield document.problem(path, message, hint, code=Code.OUTSIDE_OF_PROJECT)


def _find_names(document: Document) -> Iterator[tuple[SpecPath, str]]:
    """Find every name of a file in the edits of a document that is written out."""
    yield from find_row_files(document)
    edits = {"edits": entries(document.data, "edits")}
    yield from find_files(spec_type(family_of(document)), edits)


def _find_misfits(
    document: Document, library: Document, head: AnySpec | None
) -> Iterator[tuple[str, str]]:
    """Find why the edits of a library cannot be edits of a document: messages and hints.

    `head` is what the library says of all of its edits; None where it does not fit the language.
    """
    file, own, other = library.file, family_of(document), family_of(library)
    if not own or not other:
        return
    if own != other:
        message = f"{file} is for models of the family {other}, and this spec edits {own}"
        yield message, f"use a library for {own}"
        return
    if difference := _compare_models(document.data["model"], library.data["model"]):
        expected, found = difference
        message = f"{file} is for {found}, and this spec edits {expected}"
        yield message, "its values, such as numbers of images, are about that model"
    mine, _ = _read_head(document)
    for name in spec_type(own).SAME:
        if head is None or mine is None or getattr(head, name) == getattr(mine, name):
            continue
        said = getattr(head, name).model_dump(mode="json", exclude_none=True)
        listed = ", ".join(f"{key}: {value}" for key, value in said.items())
        message = f"{file} has other {name} than this spec"
        yield message, f"write {name}: {{{listed}}}, as there, so that both mean the same"


def _read_head(document: Document) -> tuple[AnySpec | None, list[Problem]]:
    """Read all of a document but its edits, and what is about single ones."""
    head = {key: value for key, value in document.data.items() if key not in NOT_OF_HEAD}
    return check(replace(document, data={**head, "edits": []}))


def _compare_models(mine: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say which two models these are, where they certainly are not the same; else None."""
    names = [str(model.get("digest") or "").removeprefix("sha256:") for model in (mine, other)]
    kinds = [str(model.get("digest") or "").startswith("sha256:") for model in (mine, other)]
    if not (all(names) and kinds[0] == kinds[1]):
        names = [str(model.get("weights")) for model in (mine, other)]
        # Files of other names may hold the same weights.
        if not all(name.startswith("builtin:") or is_remote(name) for name in names):
            return None
    return (names[0], names[1]) if names[0] != names[1] else None
