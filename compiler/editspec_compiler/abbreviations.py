"""Write out what the edits of a document abbreviate. Imports no torch.

``{file: pairs.jsonl}`` stands for the rows of a file, a place of several images,
``{latents: [4, 5], mask: …}``, for one place each, and a list of one source for that source. All
that comes after, from the checks of the language to the digests, sees what is written out. Problems
are shown at what is written.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from editspec_compiler.document import Document, Locatable, entries, kind
from editspec_compiler.parameters import is_reference
from editspec_compiler.problems import Problem, RowPlace, SpecPath
from editspec_compiler.registry import family_of, modality_of, spec_type
from editspec_compiler.row_files import TEXT, Fault, PlacedRow, RowFile, RowsError, read_rows
from editspec_compiler.schema import LISTS
from editspec_compiler.visit import find_parts
from editspec_runtime.codes import Code

PLACES = ("context", "preserve")
"""The fields of an edit that are lists of places."""

FILE = "file"
"""The key of what stands for the rows of a file."""

MOST_VALUES = 10**6
"""The most values that a document may have once it is written out."""

MOST_LEVELS = 100
"""The most lists and mappings in each other that an edit of a library may have."""


def write_out(document: Document, folder: Path) -> Document:
    """Write out the edits of a document, which may not fit the language.

    What cannot be written out is a problem of the document that is returned. Where nothing is
    abbreviated, the document itself is returned.

    Parameters
    ----------
    document
        A document as it was parsed.
    folder
        What names of files are relative to.
    """
    document = write_out_rows(document, folder)
    writer = _Writer(document, modality_of(family_of(document)).plurals)
    edits = entries(document.data, "edits")
    written = [writer.edit(("edits", number), edit) for number, edit in enumerate(edits)]
    if not writer.moves and not writer.problems:
        return document
    return _change(document, written, writer.moves, writer.problems)


def write_out_rows(document: Document, folder: Path) -> Document:
    """Write out the rows of files, and sources that stand alone in a list.

    The parameters and the result are those of `write_out`.
    """
    return _unwrap_sources(_write_out_rows(document, folder))


def _change(
    document: Document,
    edits: list[Any],
    moves: Mapping[SpecPath, SpecPath],
    problems: list[Problem],
) -> Document:
    return replace(
        document,
        data={**document.data, "edits": edits},
        moves=(*document.moves, moves),
        problems=(*document.problems, *problems),
    )


def find_row_files(document: Document) -> Iterator[tuple[SpecPath, str]]:
    """Find every file of rows that a document names, which is not written out, with its path."""
    for number, edit in enumerate(entries(document.data, "edits")):
        for name in LISTS if isinstance(edit, dict) else ():
            path: SpecPath = ("edits", number, name)
            given = edit.get(name)
            found: list[tuple[SpecPath, Any]] = [(path, given)]
            if isinstance(given, list):
                found = [((*path, index), entry) for index, entry in enumerate(given)]
            for where, entry in found:
                if _names_rows(entry) and isinstance(entry[FILE], str):
                    yield (*where, FILE), entry[FILE]


def _names_rows(given: Any) -> TypeGuard[dict[str, Any]]:
    # The file of a parameter is named by whoever uses the edit.
    return isinstance(given, dict) and FILE in given and not is_reference(given[FILE])


def _write_out_rows(document: Document, folder: Path) -> Document:
    reader = _Reader(document, folder)
    written = []
    for number, edit in enumerate(entries(document.data, "edits")):
        written.append(reader.edit(("edits", number), edit) if isinstance(edit, dict) else edit)
    if not reader.moves and not reader.problems:
        return document
    rows = {**document.rows, **reader.rows}
    return _change(replace(document, rows=rows), written, reader.moves, reader.problems)


def _unwrap_sources(document: Document) -> Document:
    """Take sources out of lists that hold one alone."""
    moves: dict[SpecPath, SpecPath] = {}

    def unwrap(side: Any, path: SpecPath) -> Any:
        source = side.get("source") if isinstance(side, dict) else None
        if not isinstance(source, list) or len(source) != 1:
            return side
        moves[*path, "source"] = (*path, "source", 0)
        return {**side, "source": source[0]}

    edits = []
    for number, given in enumerate(entries(document.data, "edits")):
        edit = unwrap(given, ("edits", number))
        if isinstance(edit, dict) and isinstance(edit.get("pairs"), list):
            pairs = enumerate(edit["pairs"])
            unwrapped = [unwrap(pair, ("edits", number, "pairs", each)) for each, pair in pairs]
            edit = {**edit, "pairs": unwrapped}
        edits.append(edit)
    return _change(document, edits, moves, []) if moves else document


@dataclass
class _Reader:
    """Reader of the files of rows that a document names.

    Attributes
    ----------
    document, folder
        As in `write_out`.
    rows
        The rows by their paths in the document as it is written.
    moves, problems
        As in `Document`: where entries stand that are moved by rows, and what is wrong.
    values
        The number of values that were read.
    """

    document: Document
    folder: Path
    rows: dict[SpecPath, Locatable] = field(default_factory=dict)
    moves: dict[SpecPath, SpecPath] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def edit(self, path: SpecPath, edit: dict[str, Any]) -> dict[str, Any]:
        """Write out the lists of one edit."""
        lists = {}
        types = _entry_types(self.document)
        for name in LISTS:
            given, where = edit.get(name), (*path, name)
            if name not in types:
                continue
            if _names_rows(given):
                found: list[Any] = []
                self._read(found, where, where, given, types[name])
                # With an error of its own, the list is left as it is.
                lists[name] = found or given
                if not found:
                    self.moves[where] = self.moves[*where, FILE] = (*where, FILE)
            elif isinstance(given, list) and any(map(_names_rows, given)):
                lists[name] = self._entries(where, given, types[name])
        return edit | lists

    def _entries(self, path: SpecPath, given: list[Any], entry_type: Any) -> list[Any]:
        found: list[Any] = []
        for index, entry in enumerate(given):
            where = (*path, index)
            if _names_rows(entry):
                self._read(found, path, where, entry, entry_type)
                continue
            if len(found) != index:
                self.moves[*path, len(found)] = where
            found.append(entry)
        return found

    def _read(
        self, found: list[Any], path: SpecPath, where: SpecPath, given: Any, entry_type: Any
    ) -> None:
        """Add the rows of the file that is named at `where` to the list at `path`."""
        before, where = len(found), (*where, FILE)
        name = given[FILE]
        file = RowFile(str(name), "")
        try:
            shared = _require_name(given)
            file = read_rows(name, self.folder)
            for number, row, value in file.rows(entry_type):
                if shared:
                    value = {**shared, **value}
                written = (*where, number)
                self.moves[*path, len(found)] = written
                self.rows[self.document.find_written(written)] = PlacedRow(file, row)
                found.append(value)
                self.values += _count_values(value)
                if self.values > MOST_VALUES:
                    message = f"more than {MOST_VALUES} values once all rows are written out"
                    raise RowsError(Fault(message, "split the edit", 0, 0, Code.TEXT_TOO_LARGE))
        except RowsError as error:
            file.faults.append(error.fault)
        if len(found) == before and not file.faults:
            file.faults.append(Fault(f"{name} has no rows", "write an entry on each line", 0, 0))
        for fault in file.faults:
            part = () if fault.number is None else (fault.number,)
            self._refuse((*where, *part), file, fault)

    def _refuse(self, path: SpecPath, file: RowFile, fault: Fault) -> None:
        problem = self.document.problem(path, fault.message, fault.hint, code=fault.code)
        place: RowPlace | None = None
        if fault.line:
            place = file.place(fault.line, fault.column)
        self.problems.append(replace(problem, row=place))


def _require_name(given: dict[str, Any]) -> dict[str, Any]:
    """Find what a mapping says of all rows of the file that it names.

    Raises a `RowsError` where rows could say it themselves: only lines of text cannot.
    """
    shared = {key: value for key, value in given.items() if key != FILE}
    others = ", ".join(map(str, shared))
    if others and not str(given[FILE]).lower().endswith(TEXT):
        message = f"a file of rows stands alone, and this has {others}, too"
        raise RowsError(Fault(message, "write it into the rows", 0, 0))
    if not isinstance(given[FILE], str):
        message = f"expected the name of a file, found {kind(given[FILE])}"
        hint = "give a .jsonl, .json or .csv file, relative to the spec"
        raise RowsError(Fault(message, hint, 0, 0, Code.TYPE_WRONG))
    return shared


def _entry_types(document: Document) -> dict[str, Any]:
    """Return the types of the entries of all fields of an edit that are lists, by their names."""
    found = {}
    spec = spec_type(family_of(document))
    for name in LISTS:
        for part in find_parts(spec, ("edits", name)):
            if typing.get_origin(part) is list:
                (found[name],) = typing.get_args(part)
    return found


@dataclass(frozen=True)
class _Single:
    """One of the places that an entry stands for.

    Attributes
    ----------
    place
        The place, with the key of one value.
    moves
        Below the place: where its value stands in the text, below the entry.
    """

    place: Any
    moves: Mapping[SpecPath, SpecPath] = field(default_factory=dict)


@dataclass
class _Writer:
    """Writer of edits, which notes what it moves and what it cannot write out."""

    document: Document
    plurals: Mapping[str, str]
    moves: dict[SpecPath, SpecPath] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def edit(self, path: SpecPath, edit: Any) -> Any:
        """Write out one edit."""
        if not isinstance(edit, dict):
            return edit
        edit = dict(edit)
        for name in PLACES:
            if isinstance(edit.get(name), list):
                edit[name] = self._places((*path, name), edit[name])
        if isinstance(edit.get("pairs"), list):
            edit["pairs"] = self._pairs((*path, "pairs"), edit["pairs"])
        if "query" in edit and self._plural(edit["query"]):
            self._refuse((*path, "query"), "a query is one place", "name one image in it")
            edit["query"] = None
        return self._sides(path, edit)

    def _places(self, path: SpecPath, given: list[Any]) -> list[Any]:
        """Write out a list of places."""
        found: list[Any] = []
        for index, entry in enumerate(given):
            where = (*path, index)
            for single in self._singles(where, entry):
                self._move((*path, len(found)), where, single.moves)
                found.append(single.place)
        return found

    def _pairs(self, path: SpecPath, given: list[Any]) -> list[Any]:
        """Write out a list of pairs."""
        found: list[Any] = []
        for index, entry in enumerate(given):
            where = (*path, index)
            for single in self._pair(where, entry):
                self._move((*path, len(found)), where, single.moves)
                found.append(single.place)
        return found

    def _sides(self, path: SpecPath, edit: dict[str, Any]) -> dict[str, Any]:
        """Write out the source and the target of an edit, which become pairs if they are many."""
        sides = {name: edit[name] for name in ("source", "target") if edit.get(name) is not None}
        named = [*_list_copies(sides.get("source")), sides.get("target")]
        if not any(map(self._plural, named)):
            return edit
        pairs = self._pair(path, sides)
        # With a side missing, or pairs besides, the edit has an error of its own.
        if len(pairs) == 1 or len(sides) < 2 or edit.get("pairs") is not None:
            self._move(path, path, pairs[0].moves)
            edit.update(pairs[0].place)
            return edit
        for name in sides:
            del edit[name]
        # Of a side that is many, the text has no pairs.
        self.moves[*path, "pairs"] = (*path, "target")
        for index, pair in enumerate(pairs):
            self._move((*path, "pairs", index), path, pair.moves)
        return edit | {"pairs": [pair.place for pair in pairs]}

    def _pair(self, path: SpecPath, pair: Any) -> list[_Single]:
        """Write out a pair: one source for every target, or as many sources as targets."""
        if not isinstance(pair, dict):
            return [_Single(pair)]
        targets = self._singles((*path, "target"), pair.get("target"))
        several = isinstance(pair.get("source"), list)
        copies: list[list[_Single]] = []
        for index, copy in enumerate(_list_copies(pair.get("source"))):
            where: SpecPath = ("source", index) if several else ("source",)
            sources = self._singles((*path, *where), copy)
            if len(sources) not in (1, len(targets)):
                self._refuse(
                    (*path, *where),
                    f"{len(sources)} sources for {_count(len(targets), 'target')}",
                    "give one source for all targets, or as many sources as targets",
                )
                sources = sources[:1]
            copies.append(sources)
        found = []
        for index, target in enumerate(targets):
            chosen = [sources[index if len(sources) > 1 else 0] for sources in copies]
            found.append(_join(pair, target, chosen, several=several))
        return found

    def _singles(self, path: SpecPath, place: Any) -> list[_Single]:
        """Write out a place: one place for each of its values."""
        plural = self._plural(place)
        if plural is None:
            return [_Single(place)]
        singular, values = self.plurals[plural], place[plural]
        where = (*path, plural)
        rest = {key: value for key, value in place.items() if key != plural}
        if singular in rest:
            message = f"{singular} and {plural} are both given"
            self._refuse(where, message, f"write {singular}: for one, {plural}: for several")
            return [_Single(rest)]
        if not isinstance(values, list) or not values:
            given = "an empty list" if values == [] else kind(values)
            message = f"expected a list of at least one {singular}, found {given}"
            self._refuse(where, message, f"for one, write {singular}:", Code.TYPE_WRONG)
            return [_Single({singular: None, **rest}, {(singular,): (plural,)})]
        # A place may hold as many values as a text, and a list may name it as often.
        self.values += _count_values(rest) * len(values)
        if self.values > MOST_VALUES:
            message = f"more than {MOST_VALUES} values once all places are written out"
            self._refuse(where, message, "name fewer images", Code.TEXT_TOO_LARGE)
            values = values[:1]
        found = []
        for index, value in enumerate(values):
            moves: dict[SpecPath, SpecPath] = {(singular,): (plural, index)}
            found.append(_Single({singular: value, **rest}, moves))
        return found

    def _plural(self, place: Any) -> str | None:
        """Return the key of a place that holds several values; None where it has none."""
        if not isinstance(place, dict):
            return None
        return next((key for key in self.plurals if key in place), None)

    def _move(self, path: SpecPath, where: SpecPath, below: Mapping[SpecPath, SpecPath]) -> None:
        """Note that what is written at `where` is at `path` now."""
        if path != where:
            self.moves[path] = where
        for part, written in below.items():
            self.moves[*path, *part] = (*where, *written)

    def _refuse(
        self, path: SpecPath, message: str, hint: str, code: Code = Code.SIDES_DOUBLE
    ) -> None:
        self.problems.append(self.document.problem(path, message, hint, code=code, at_key=True))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _list_copies(source: Any) -> list[Any]:
    """Return all that a source copies: the entries of a list, or itself."""
    return source if isinstance(source, list) else [source]


def _join(
    pair: dict[str, Any], target: _Single, copies: list[_Single], *, several: bool
) -> _Single:
    """Make one pair of a target and of its sources."""
    moves = {("target", *path): ("target", *written) for path, written in target.moves.items()}
    for index, copy in enumerate(copies):
        where: SpecPath = ("source", index) if several else ("source",)
        for path, written in copy.moves.items():
            moves[*where, *path] = (*where, *written)
    joined = dict(pair)
    if "target" in pair:
        joined["target"] = target.place
    if "source" in pair:
        sources = [copy.place for copy in copies]
        joined["source"] = sources if several else sources[0]
    return _Single(joined, moves)


def _count_values(part: Any) -> int:
    """Count the values in plain data."""
    if isinstance(part, dict):
        return 1 + sum(map(_count_values, part.values()))
    if isinstance(part, list):
        return 1 + sum(map(_count_values, part))
    return 1


def find_excess(part: Any) -> str:
    """Say that plain data, whose parts may be shared, are too many or too deep; or nothing."""
    waiting: list[tuple[Any, int]] = [(part, 0)]
    count = 0
    while waiting:
        each, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            return f"more than {MOST_VALUES} values once all edits are written out"
        if depth > MOST_LEVELS:
            return f"more than {MOST_LEVELS} levels of lists and mappings in each other"
        below = each.values() if isinstance(each, dict) else each
        if isinstance(each, (dict, list)):
            waiting += [(value, depth + 1) for value in below]
    return ""
