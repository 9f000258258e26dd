"""Checks a document against the language, and says in its own words what does not fit.

Imports no torch.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails

from editspec_compiler.document import Document, kind
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.registry import (
    Modality,
    family_of,
    fields_of,
    modality_of,
    spec_type,
)
from editspec_compiler.schema import AnySpec, Check, Edit, Erase
from editspec_compiler.visit import Role, is_union, marks_of, member_by_tag, member_by_word
from editspec_runtime.codes import Code
from editspec_runtime.core.method import (
    CONTEXT,
    DIRECTIONS,
    ERASED_UNITS,
    OBSERVE,
    RANK,
    Settings,
)
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.methods.registry import (
    METHODS,
    method_of,
    methods_setting,
    methods_taking,
)


def check(document: Document) -> tuple[AnySpec | None, list[Problem]]:
    """The spec that a document holds, or None, and everything that does not fit the language."""
    family = family_of(document)
    modality = modality_of(family)
    try:
        spec = spec_type(family).model_validate(document.data)
    except ValidationError as error:
        words = _Words(document, family, modality)
        problems = [words.problem(details) for details in error.errors(include_url=False)]
        return None, problems + _incomplete_edits(document)
    if problems := _incomplete_edits(document):
        return None, problems
    found = [document.misfit(("model",), each) for each in spec.model.problems(spec.compatibility)]
    for find in (_doubled_names, _foreign_fields, _contradictions, _unfit_checks):
        found += find(document, spec)
    found += modality.problems(document, spec)
    return spec, found


def fit(part: Any, given: Any) -> Any:
    """`given` as a part of the language, a model or an annotation; None where it does not fit."""
    try:
        return _adapter(part).validate_python(given)
    except ValidationError:
        return None


@cache
def _adapter(part: Any) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the language, for editors: one of the specs of all families."""
    types = [spec_type(family) for family in FAMILIES]
    references, schema = models_json_schema([(each, "validation") for each in types])
    one_of = [references[each, "validation"] for each in types]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | {"oneOf": one_of, "$defs": schema["$defs"]}


def suggest(wanted: str, known: list[str]) -> str:
    """A hint that names the nearest of the known words, and all of them."""
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    meant = f'did you mean "{close[0]}"? ' if close else ""
    return f"{meant}known here: {', '.join(known)}"


def _doubled_names(document: Document, spec: AnySpec) -> Iterator[Problem]:
    first: dict[str, int] = {}
    hint = "give every edit a name of its own"
    for number, edit in enumerate(spec.edits):
        if edit.name in first:
            message = f"the name {edit.name} is that of edits[{first[edit.name]}], too"
            where = ("edits", number, "name")
            yield document.problem(where, message, hint, code=Code.NAME_TWICE)
        first.setdefault(edit.name, number)


def _incomplete_edits(document: Document) -> list[Problem]:
    """Edits that lack a source or a target, or have them besides pairs."""
    problems = []
    edits = document.data.get("edits")
    for number, edit in enumerate(edits if isinstance(edits, list) else []):
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
                message = f"{field} stands beside pairs"
                problems.append(
                    document.problem(where, message, hint, code=Code.SIDES_DOUBLE, at_key=True)
                )
    return problems


METHOD_FIELDS = (RANK, CONTEXT, DIRECTIONS, OBSERVE)
"""The fields of an edit that not every method takes. An erased value takes a context whatever the
method: it ranks the units.
"""


def _foreign_fields(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """The fields of edits that their solver methods do not take."""
    for number, edit in enumerate(spec.edits):
        where, method = ("edits", number), method_of(edit.solver)
        copies = not all(isinstance(pair.source, Erase) for pair in edit.sides)
        if ERASED_UNITS in method.needs and copies:
            message = f"{method.name} sets units to zero, and this source names none"
            hint = "write source: {erase: {units: N}}, or take another method"
            yield document.problem((*where, "source"), message, hint, code=Code.METHOD_NEEDS)
        for field in METHOD_FIELDS:
            ranks_units = field == CONTEXT and edit.erases
            if field not in edit.model_fields_set or field in method.takes or ranks_units:
                continue
            message = f"{method.name} takes no {field}"
            takers = ", ".join(methods_taking(field))
            hint = f"leave {field} out, or take a method that has it: {takers}"
            yield document.problem(
                (*where, field), message, hint, code=Code.METHOD_FIELD, at_key=True
            )
        if edit.directions == "mean" and edit.rank > 1:
            message = f"the mean key is one direction, and the rank is {edit.rank}"
            hint = "write rank: 1, or directions: zca"
            yield document.problem((*where, "rank"), message, hint, code=Code.RANK_UNFIT)


def _contradictions(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """The solvers whose settings contradict each other."""
    for number, edit in enumerate(spec.edits):
        if contradiction := edit.solver.contradiction():
            field, message = contradiction
            where = ("edits", number, "solver", field)
            yield document.problem(where, message, code=Code.METHOD_SETTINGS, at_key=True)


def _unfit_checks(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """The checks of edits that do not exist, that cannot be measured, or that look the same."""
    names, first = [edit.name for edit in spec.edits], dict[tuple[str, str | None], int]()
    for number, check in enumerate(spec.checks):
        path = ("checks", number)
        if check.edit is not None and check.edit not in names:
            message, hint = f"there is no edit {check.edit}", suggest(check.edit, names)
            where = (*path, "edit")
            yield document.problem(where, message, hint, code=Code.CHECK_EDIT_UNKNOWN)
            continue
        if check.BEFORE_LAST and (len(names) == 1 or check.edit == names[-1]):
            where = (*path, "edit") if check.edit is not None else (*path, "measure")
            message = (
                f"no edit comes after {names[-1]}, so that there is nothing that it could be "
                "kept through"
            )
            hint = "name an earlier edit, or leave the check out"
            yield document.problem(where, message, hint, code=Code.CHECK_UNFIT)
        for edit in spec.checked(check):
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
    """A place that pydantic names, as the types of the language have it.

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
    """

    path: SpecPath
    owner: type[BaseModel] | None
    role: str
    union: tuple[Any, ...]


def _locate(part: Any, location: tuple[int | str, ...]) -> _Place:
    """Follow a location of pydantic through the types, which say where a part of it is a tag."""
    path: list[int | str] = []
    owner: type[BaseModel] | None = None
    part, marks = _strip(part, ())
    for step in location:
        members = _members(part)
        if members and isinstance(step, str):
            chosen = member_by_tag(members, step) or member_by_word(members, marks, step)
            if chosen is not None:
                part, marks = _strip(chosen, ())
                continue
        path.append(step)
        owner = None
        if isinstance(part, type) and issubclass(part, BaseModel):
            owner = part
            field = part.model_fields.get(str(step))
            part, marks = (None, ()) if field is None else _strip(field.annotation, marks_of(field))
        elif typing.get_origin(part) in (list, dict):
            part, marks = _strip(typing.get_args(part)[-1], ())
        else:
            part, marks = None, ()
    role = next((mark.name for mark in marks if isinstance(mark, Role)), "")
    return _Place(tuple(path), owner, role, _members(part))


def _strip(part: Any, marks: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations and without None, and the marks in its annotations."""
    while True:
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
    """The members of a union; nothing of another type."""
    return typing.get_args(part) if is_union(part) else ()


WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
"""The value that was expected, by pydantic's name of the error."""

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
BOUND_ERRORS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")

PATTERNS = {
    "0-9a-f": ("a digest", "64 hexadecimal digits, or sha256: and 64 of them"),
    ":[": ("package.module:factory", "letters, digits, '.', '_' and '-'"),
    "": ("a name that can be part of a file's", "letters, digits, '.', '_' and '-'"),
}
"""By a mark in the pattern: the text that it wants, and a hint."""


@dataclass(frozen=True)
class _Words:
    """Says pydantic's errors in words of the language, at their places."""

    document: Document
    family: str
    modality: Modality

    def problem(self, details: ErrorDetails) -> Problem:
        """An error of pydantic as a problem."""
        what, given, context = details["type"], details["input"], details.get("ctx", {})
        place = _locate(spec_type(self.family), details["loc"])
        if what == "extra_forbidden":
            return self._unknown_key(place)
        if what == "missing":
            key = str(place.path[-1])
            hint = _owner(place).model_fields[key].description or ""
            message = f"{key} is missing"
            return self.document.problem(place.path, message, hint, code=Code.KEY_MISSING)
        if what in ("union_tag_not_found", "union_tag_invalid"):
            return self._union_problem(place, given)
        message, hint, code = _misfit(what, given, context)
        return self.document.problem(place.path, message, hint, code=code)

    def _unknown_key(self, place: _Place) -> Problem:
        key, owner = str(place.path[-1]), _owner(place)
        if owner in (
            fields_of(self.family),
            spec_type(self.family).model_fields["model"].annotation,
        ):
            takers = [name for name, each in FAMILIES.items() if key in each.fields.model_fields]
            if takers:
                return self._foreign_key(place.path, key, takers)
        hint = suggest(key, list(owner.model_fields))
        solvers = methods_setting(key)
        if issubclass(owner, Settings) and solvers:
            take = "takes" if len(solvers) == 1 else "take"
            hint = f"{', '.join(solvers)} {take} it; {hint}"
        message = f"unknown key {key}"
        return self.document.problem(place.path, message, hint, code=Code.KEY_UNKNOWN, at_key=True)

    def _foreign_key(self, path: SpecPath, key: str, takers: list[str]) -> Problem:
        """A key of ``model:`` that other families have."""
        message = f"the family {self.family} takes no {key}"
        if len(takers) == 1:
            message = f"{key} is for the family {takers[0]}"
        hint = f"leave {key} out"
        return self.document.problem(path, message, hint, code=Code.FAMILY_FIELD, at_key=True)

    def _union_problem(self, place: _Place, given: Any) -> Problem:
        members = [each for each in place.union if isinstance(each, type)]
        if members and all(issubclass(each, Settings) for each in members):
            wanted = "expected a method or its settings"
            return self._word_problem(
                place.path, given, "method", "solver method", list(METHODS), wanted
            )
        if members and all(issubclass(each, Check) for each in members):
            measures = list(self.modality.checks)
            wanted = "expected a mapping"
            return self._word_problem(place.path, given, "measure", "measure", measures, wanted)
        wanted = f"expected {self.modality.expected[place.role]}"
        if isinstance(given, dict) and given:
            key = str(next(iter(given)))
            message = f"{wanted}; found the key {key}"
            hint = suggest(key, _keys_of(place.union))
            return self.document.problem(place.path, message, hint, code=Code.KEY_UNKNOWN)
        message = f"{wanted}; found {kind(given)}"
        return self.document.problem(place.path, message, code=Code.TYPE_WRONG)

    def _word_problem(
        self, path: SpecPath, given: Any, key: str, name: str, known: list[str], wanted: str
    ) -> Problem:
        """A mapping whose `key` is missing or none of the known words, or something else."""
        problem = self.document.problem
        if not isinstance(given, dict):
            return problem(path, f"{wanted}, found {kind(given)}", code=Code.TYPE_WRONG)
        if key not in given:
            hint = f"known here: {', '.join(known)}"
            return problem(path, f"{key} is missing", hint, code=Code.KEY_MISSING)
        word = str(given[key])
        quoted = f'"{word}"' if name != key else word
        hint = suggest(word, known)
        message = f"there is no {name} {quoted}"
        return problem((*path, key), message, hint, code=Code.METHOD_UNKNOWN)


def _owner(place: _Place) -> type[BaseModel]:
    assert place.owner is not None
    return place.owner


def _keys_of(members: tuple[Any, ...]) -> list[str]:
    """The keys of the mappings among the members of a union."""
    models = (_strip(member, ())[0] for member in members)
    found = [list(each.model_fields) for each in models if hasattr(each, "model_fields")]
    return [key for keys in found for key in keys]


def _misfit(what: str, given: Any, context: dict[str, Any]) -> tuple[str, str, Code]:
    """What does not fit in words, a hint, and the code."""
    if what == "float_type" and type(given) is int:
        return "too large for a number", "", Code.VALUE_OUT_OF_RANGE
    if what in WANTED:
        digits = isinstance(given, str) and given.lstrip("+-").isdigit()
        hint = "take the quotes off" if what == "int_type" and digits else ""
        return f"expected {WANTED[what]}, found {kind(given)}", hint, Code.TYPE_WRONG
    if what == "literal_error":
        return _misspelt(given, context["expected"].replace("'", ""))
    if what in BOUND_ERRORS:
        name = next(name for name in BOUNDS if name in context)
        found = kind(given).removeprefix("the number ")
        message = f"must be {BOUNDS[name]} {context[name]}, found {found}"
        return message, "", Code.VALUE_OUT_OF_RANGE
    if what in ("too_short", "too_long"):
        bound, key = (
            ("at least", "min_length") if what == "too_short" else ("at most", "max_length")
        )
        message = f"must have {bound} {context[key]} entries, found {context['actual_length']}"
        return message, "", Code.LENGTH_WRONG
    if what == "string_pattern_mismatch":
        mark = next(mark for mark in PATTERNS if mark in context["pattern"])
        wanted, hint = PATTERNS[mark]
        return f"{kind(given)} is not {wanted}", hint, Code.NAME_UNFIT
    return f"does not fit: {what.replace('_', ' ')}", "", Code.SPEC


def _misspelt(given: Any, expected: str) -> tuple[str, str, Code]:
    """A word that is none of those expected, which are given as ``a, b or c``."""
    message = f"expected {expected}, found {kind(given)}"
    words = expected.replace(" or ", ", ").split(", ")
    hint = ""
    if isinstance(given, str) and given in words:
        hint = "take the quotes off"
    elif isinstance(given, str):
        close = difflib.get_close_matches(given, words, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else ""
    return message, hint, Code.WORD_UNKNOWN
