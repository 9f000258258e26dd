"""Fields of edits that methods take, and settings that go together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import AnyEdit, AnySpec, Erase
from editspec_runtime.codes import Code
from editspec_runtime.core.method import (
    CONTEXT,
    DIRECTIONS,
    ERASED_UNITS,
    FULL,
    FULL_RANK,
    LEARNED,
    LEARNED_DIRECTIONS,
    OBSERVE,
    PRESERVE,
    RANK,
    REFINE,
)
from editspec_runtime.methods.registry import method_of, methods_taking

METHOD_FIELDS = {
    "rank": RANK,
    "context": CONTEXT,
    "directions": DIRECTIONS,
    "observe": OBSERVE,
    "preserve": PRESERVE,
    "protect": PRESERVE,
    "refine": REFINE,
}
"""The fields of an edit that not every method takes, and what a method must take for them.

An erased value takes a context whatever the method: the context ranks the units.
"""


def find_foreign_fields(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """Find fields of edits that their solver methods do not take."""
    for number, edit in enumerate(spec.edits):
        where, method = ("edits", number), method_of(edit.solver)
        copies = not all(isinstance(pair.source, Erase) for pair in edit.sides)
        if ERASED_UNITS in method.needs and copies:
            message = f"{method.name} sets units to zero, and this source names none"
            hint = "write source: {erase: {units: N}}, or take another method"
            yield document.problem((*where, "source"), message, hint, code=Code.METHOD_NEEDS)
        for field, power in METHOD_FIELDS.items():
            ranks_units = power == CONTEXT and edit.erases
            # A field that is written out counts even where it has the default: it has no effect.
            if field not in edit.model_fields_set or power in method.takes or ranks_units:
                continue
            message = f"{method.name} takes no {field}"
            takers = ", ".join(methods_taking(power))
            hint = f"leave {field} out, or take a method that has it: {takers}"
            yield document.problem(
                (*where, field), message, hint, code=Code.METHOD_FIELD, at_key=True
            )
        yield from _find_foreign_values(document, edit, where)
        if edit.directions == "mean" and edit.rank != 1:
            message = f"the mean key is one direction, and the rank is {edit.rank}"
            hint = "write rank: 1, or directions: zca"
            yield document.problem((*where, "rank"), message, hint, code=Code.RANK_UNFIT)


def _find_foreign_values(document: Document, edit: AnyEdit, where: SpecPath) -> Iterator[Problem]:
    """Find values of fields that the solver method of an edit does not take."""
    method = method_of(edit.solver)
    given = (
        ("rank", RANK, FULL_RANK, edit.rank == FULL),
        ("directions", DIRECTIONS, LEARNED_DIRECTIONS, edit.directions == LEARNED),
    )
    for field, power, value, named in given:
        if named and power in method.takes and value not in method.takes:
            message = f"{method.name} takes no {value}"
            hint = f"take a method that has it: {', '.join(methods_taking(value))}"
            yield document.problem((*where, field), message, hint, code=Code.METHOD_FIELD)
    weighed = edit.rank == FULL or edit.directions == LEARNED
    if weighed and getattr(edit.solver, "collateral", None) is not None:
        message = f"a budget is kept in given directions, and {method.name} is to find the change"
        hint = "write collateral_weight in place of collateral"
        path = (*where, "solver", "collateral")
        yield document.problem(path, message, hint, code=Code.METHOD_SETTINGS, at_key=True)
    if edit.refine is not None and edit.preserve is None and edit.protect is None:
        message = "refine moves outputs, and nothing says which of them must stay"
        hint = "write preserve: and places or images that must stay as they are"
        yield document.problem((*where, "refine"), message, hint, code=Code.METHOD_NEEDS)
    if edit.rank != FULL or FULL_RANK not in method.takes:
        return
    for field in ("context", "directions"):
        if field in edit.model_fields_set and not (field == "context" and edit.erases):
            message, hint = f"a change of full rank takes no {field}", f"leave {field} out"
            yield document.problem(
                (*where, field), message, hint, code=Code.METHOD_FIELD, at_key=True
            )


def find_contradictions(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """Find solvers whose settings contradict each other."""
    for number, edit in enumerate(spec.edits):
        if contradiction := edit.solver.contradiction():
            field, message = contradiction
            where = ("edits", number, "solver", field)
            hint = "keep the setting that is meant, and leave the other out"
            yield document.problem(where, message, hint, code=Code.METHOD_SETTINGS, at_key=True)
