"""Check a document against the language, and say in words what does not fit.

Imports no torch.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from editspec_compiler.document import Document, entries, kind
from editspec_compiler.method_fields import find_contradictions, find_foreign_fields
from editspec_compiler.misfits import describe_misfit
from editspec_compiler.moved_edits import find_unfit_moves
from editspec_compiler.parameters import find_unfit_defaults
from editspec_compiler.problems import Problem, SpecPath, suggest
from editspec_compiler.registry import (
    Modality,
    family_of,
    fields_of,
    modality_of,
    spec_type,
)
from editspec_compiler.schema import AnySpec, Check, Edit, solver_union
from editspec_compiler.visit import (
    Role,
    fields_by_key,
    is_union,
    marks_of,
    member_by_tag,
    member_by_word,
)
from editspec_runtime.codes import Code
from editspec_runtime.core.method import (
    Settings,
)
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.methods.registry import (
    METHODS,
    methods_setting,
)


def check(document: Document) -> tuple[AnySpec | None, list[Problem]]:
    """Read the spec that a document holds, and find all that does not fit.

    The document is one that `write_out` gives. The spec is None where it cannot be read.
    """
    family = family_of(document)
    modality = modality_of(family)
    try:
        spec = spec_type(family).model_validate(document.data)
    except ValidationError as error:
        # What follows from several fields is looked for all the same: both are told at once.
        words = _Words(document, family, modality)
        problems = [words.problem(details) for details in error.errors(include_url=False)]
        return None, problems + _find_incomplete_edits(document)
    # Not by a validator of pydantic, which would run only once all fields of an edit fit.
    if problems := _find_incomplete_edits(document):
        return None, problems
    found: list[Problem] = []
    for each in spec.model.problems(spec.compatibility):
        found.append(document.misfit(("model",), each))
    for find in (
        _find_doubled_names,
        find_foreign_fields,
        find_contradictions,
        _find_unfit_checks,
        find_unfit_moves,
        find_unfit_defaults,
    ):
        found += find(document, spec)
    found += modality.problems(document, spec)
    return spec, found


def fit(part: Any, given: Any) -> Any:
    """Read `given` as a part of the language; None where it does not fit.

    `part` is a model or an annotation.
    """
    try:
        return _adapter(part).validate_python(given)
    except ValidationError:
        return None


@cache
def _adapter(part: Any) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def _find_doubled_names(document: Document, spec: AnySpec) -> Iterator[Problem]:
    first: dict[str, int] = {}
    hint = "give every edit a name of its own"
    for number, edit in enumerate(spec.edits):
        if edit.name in first:
            message = f"the name {edit.name} is that of edits[{first[edit.name]}], too"
            where = ("edits", number, "name")
            yield document.problem(where, message, hint, code=Code.NAME_TWICE)
        first.setdefault(edit.name, number)


def _find_incomplete_edits(document: Document) -> list[Problem]:
    """Find edits that lack a source or a target, or have them besides pairs."""
    problems = []
    for number, edit in enumerate(entries(document.data, "edits")):
        if not isinstance(edit, dict):
            continue
        for field in ("source", "target"):
            where = ("edits", number, field)
            given, pairs = edit.get(field) is not None, edit.get("pairs") is not None
            if not given and not pairs:
                hint = Edit.model_fields[field].description or ""
                message = f"{field} is missing"
                problems.append(document.problem(where, message, hint, code=Code.KEY_MISSING))
            elif given and pairs:
                hint = f"move {field} into pairs, as an entry {{source: …, target: …}}"
                message = f"{field} and pairs are both given"
                problems.append(
                    document.problem(where, message, hint, code=Code.SIDES_DOUBLE, at_key=True)
                )
    return problems


def _find_unfit_checks(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """Find checks of unknown edits, checks without a measure, and checks given twice."""
    names = [edit.name for edit in spec.edits]
    first: dict[tuple[str, str | None], int] = {}
    for number, check in enumerate(spec.checks):
        path = ("checks", number)
        if check.edit is not None and check.edit not in names:
            message, hint = f"there is no edit {check.edit}", suggest(check.edit, names)
            where = (*path, "edit")
            yield document.problem(where, message, hint, code=Code.CHECK_EDIT_UNKNOWN)
            continue
        if check.BEFORE_LAST and (len(names) == 1 or check.edit == names[-1]):
            key = "edit" if check.edit is not None else "measure"
            message = (
                f"no edit comes after {names[-1]}, so that there is nothing that it could be "
                "kept through"
            )
            hint = "name an earlier edit, or leave the check out"
            yield document.problem((*path, key), message, hint, code=Code.CHECK_UNFIT)
        # A row of the report is known by its name and its edit.
        for edit in spec.edits_of(check):
            row = (check.name or check.measure, edit)
            if row in first:
                message = (
                    f"this check is called {row[0]} as checks[{first[row]}] is, and is of the "
                    "same edit"
                )
                hint = "give every such check a name of its own"
                yield document.problem(path, message, hint, code=Code.CHECK_TWICE)
                break
            first[row] = number


@dataclass(frozen=True)
class _Place:
    """Place that pydantic names, as the types of the language have it.

    Attributes
    ----------
    path
        The way there in the spec: keys and indices, without the tags of unions.
    owner
        The model of the mapping that the last part is a key of; None of entries of a list.
    role
        The role of the values at this place; empty where they have none.
    union
        The members of the union at this place; empty where there is none.
    description
        The words of the language about the nearest field around this place.
    """

    path: SpecPath
    owner: type[BaseModel] | None
    role: str
    union: tuple[Any, ...]
    description: str


def _locate(part: Any, location: tuple[int | str, ...]) -> _Place:
    """Follow a location of pydantic through the types.

    Only the types say which parts of a location are tags of unions, and no keys of the spec.
    """
    path: list[int | str] = []
    description = ""
    owner: type[BaseModel] | None = None
    part, marks = _strip(part, ())
    for step in location:
        members = _members(part)
        if members and isinstance(step, str):
            # pydantic names the tag of a member on the way; in the spec there is no such key.
            chosen = member_by_tag(members, step) or member_by_word(members, marks, step)
            if chosen is not None:
                part, marks = _strip(chosen, ())
                continue
        path.append(step)
        owner = None
        if isinstance(part, type) and issubclass(part, BaseModel):
            owner = part
            field = fields_by_key(part).get(str(step))
            part, marks = None, ()
            if field is not None:
                part, marks = _strip(field.annotation, marks_of(field))
                description = field.description or ""
        elif typing.get_origin(part) in (list, dict):
            part, marks = _strip(typing.get_args(part)[-1], ())
        else:
            part, marks = None, ()
    role = next((mark.name for mark in marks if isinstance(mark, Role)), "")
    return _Place(tuple(path), owner, role, _members(part), description)


def _strip(part: Any, marks: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Take the annotations and None off a type; return it with the marks of both."""
    while True:
        if part is Settings:
            return solver_union(), (*marks, Discriminator("method"))
        if typing.get_origin(part) is Annotated:
            part, *more = typing.get_args(part)
            marks = (*marks, *more)
            continue
        members = _members(part)
        present = [member for member in members if member is not type(None)]
        if not members or len(present) > 1:
            return part, marks
        part = present[0]


def _members(part: Any) -> tuple[Any, ...]:
    """Return the members of a union; none where a type is not a union."""
    return typing.get_args(part) if is_union(part) else ()


@dataclass(frozen=True)
class _KeyWords:
    """Key whose word says which member of a union a mapping is.

    Attributes
    ----------
    key, name
        The key, and what people call it.
    known
        The words that it may have.
    wanted
        What may stand in the place of the mapping, in words.
    """

    key: str
    name: str
    known: list[str]
    wanted: str

    @property
    def code(self) -> Code:
        """Code of a word that is not known."""
        return Code.METHOD_UNKNOWN if self.key == "method" else Code.MEASURE_UNKNOWN


@dataclass(frozen=True)
class _Words:
    """Translator of pydantic's errors to words of the language, at their places."""

    document: Document
    family: str
    modality: Modality

    def problem(self, details: ErrorDetails) -> Problem:
        """Translate an error of pydantic."""
        what, given, context = details["type"], details["input"], details.get("ctx", {})
        place = _locate(spec_type(self.family), details["loc"])
        if what == "extra_forbidden":
            return self._unknown_key(place)
        if what == "missing":
            key = str(place.path[-1])
            hint = fields_by_key(_owner(place))[key].description or ""
            message = f"{key} is missing"
            return self.document.problem(place.path, message, hint, code=Code.KEY_MISSING)
        if what in ("union_tag_not_found", "union_tag_invalid"):
            return self._union_problem(place, given)
        message, hint, code = describe_misfit(what, given, context)
        hint = hint or place.description
        return self.document.problem(place.path, message, hint, code=code)

    def _unknown_key(self, place: _Place) -> Problem:
        key, owner = str(place.path[-1]), _owner(place)
        named = spec_type(self.family).model_fields["model"].annotation
        if owner in (fields_of(self.family), named):
            takers = _families_with(key)
            if takers:
                return self._foreign_key(place.path, key, takers)
        hint = suggest(key, list(fields_by_key(owner)))
        solvers = methods_setting(key)
        if issubclass(owner, Settings) and solvers:
            take = "takes" if len(solvers) == 1 else "take"
            hint = f"{', '.join(solvers)} {take} it; {hint}"
        message = f"unknown key {key}"
        return self.document.problem(place.path, message, hint, code=Code.KEY_UNKNOWN, at_key=True)

    def _foreign_key(self, path: SpecPath, key: str, takers: list[str]) -> Problem:
        """Make the problem of a key of ``model:`` that other families have."""
        message = f"the family {self.family} takes no {key}"
        if len(takers) == 1:
            message = f"{key} is for the family {takers[0]}"
        hint = f"leave {key} out"
        return self.document.problem(path, message, hint, code=Code.FAMILY_FIELD, at_key=True)

    def _union_problem(self, place: _Place, given: Any) -> Problem:
        members = [each for each in place.union if isinstance(each, type)]
        if members and all(issubclass(each, Settings) for each in members):
            words = _KeyWords("method", "solver method", list(METHODS), "a method or its settings")
            return self._word_problem(place.path, given, words)
        if members and all(issubclass(each, Check) for each in members):
            words = _KeyWords("measure", "measure", list(self.modality.checks), "a mapping")
            return self._word_problem(place.path, given, words)
        wanted = f"expected {self.modality.expected[place.role]}"
        if isinstance(given, dict) and given:
            key = str(next(iter(given)))
            message = f"{wanted}; found the key {key}"
            hint = suggest(key, _keys_of(place.union))
            return self.document.problem(place.path, message, hint, code=Code.KEY_UNKNOWN)
        message, hint = f"{wanted}; found {kind(given)}", _meant_member(place.union, given)
        hint = hint or place.description
        return self.document.problem(place.path, message, hint, code=Code.TYPE_WRONG)

    def _word_problem(self, path: SpecPath, given: Any, words: _KeyWords) -> Problem:
        """Say that a mapping, its key or a known word at the key is missing."""
        problem, known = self.document.problem, f"known here: {', '.join(words.known)}"
        if not isinstance(given, dict):
            message = f"expected {words.wanted}, found {kind(given)}"
            hint = f"write {words.key}: and its name; {known}"
            return problem(path, message, hint, code=Code.TYPE_WRONG)
        if words.key not in given:
            return problem(path, f"{words.key} is missing", known, code=Code.KEY_MISSING)
        word = str(given[words.key])
        quoted = f'"{word}"' if words.name != words.key else word
        message = f"there is no {words.name} {quoted}"
        hint = suggest(word, words.known)
        return problem((*path, words.key), message, hint, code=words.code)


def _families_with(key: str) -> list[str]:
    """Return the families whose ``model:`` has a key."""
    found = []
    for name, family in FAMILIES.items():
        if key in family.load_fields().model_fields:
            found.append(name)
    return found


def _owner(place: _Place) -> type[BaseModel]:
    assert place.owner is not None
    return place.owner


def _keys_of(members: tuple[Any, ...]) -> list[str]:
    """Return the keys of the mappings among the members of a union."""
    keys: list[str] = []
    for member in members:
        plain, _ = _strip(member, ())
        keys.extend(getattr(plain, "model_fields", ()))
    return list(dict.fromkeys(keys))


def _meant_member(members: tuple[Any, ...], given: Any) -> str:
    """Say how to write what was meant by a value that no member takes; empty where unknown."""
    plain = [_strip(member, ())[0] for member in members]
    if isinstance(given, str) and int in plain and given.lstrip("+-").isdigit():
        return "take the quotes off"
    if isinstance(given, float) and int in plain and given.is_integer():
        return f"write {given:.0f}: a whole number has no point"
    if isinstance(given, str) and "file" in _keys_of(members):
        return f"write {{file: {given}}} if it is a file"
    return ""
