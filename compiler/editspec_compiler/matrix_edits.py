"""What edits of matrices may say, whatever their modality: fields, layers, methods; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import AnyEdit
from editspec_runtime.codes import Code
from editspec_runtime.core.method import CHANNELWISE, LINEAR, MATRIX, OUTPUTS
from editspec_runtime.methods.registry import METHODS


def find_foreign_fields(
    document: Document, where: SpecPath, edit: AnyEdit, foreign: Iterable[str], kind: str
) -> Iterator[Problem]:
    """Find fields that edits of a kind, such as texts, do not have."""
    for field in foreign:
        if field in edit.model_fields_set:
            message, hint = f"an edit of {kind} takes no {field}", f"leave {field} out"
            yield document.problem(
                (*where, field), message, hint, code=Code.METHOD_FIELD, at_key=True
            )


def say_layers_are_double(document: Document, where: SpecPath) -> Problem:
    """The problem of an edit that gives a layer and several."""
    message, hint = "layer and layers are both given", "leave one of them out"
    return document.problem((*where, "layers"), message, hint, code=Code.SIDES_DOUBLE, at_key=True)


def find_unfit_method(
    document: Document, where: SpecPath, edit: AnyEdit, kind: str
) -> Iterator[Problem]:
    """Find a method that does not solve edits of a kind, such as texts."""
    method = edit.solver.method
    if _solves_matrices(method):
        return
    known = methods_of_matrices()
    message = f"{method} does not solve edits of {kind}"
    hint = f"write one of these methods: {', '.join(known)}"
    yield document.problem((*where, "solver"), message, hint, code=Code.METHOD_NEEDS)


def methods_of_matrices() -> list[str]:
    """List the methods that solve edits of matrices."""
    return [name for name in METHODS if _solves_matrices(name)]


def _solves_matrices(name: str) -> bool:
    """Whether a method solves rules of a matrix in one step, from keys and values alone."""
    needs = METHODS[name].needs
    return bool(needs & {LINEAR, CHANNELWISE, MATRIX}) and OUTPUTS not in needs
