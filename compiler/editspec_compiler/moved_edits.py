"""Former names of edits, and what does not fit in them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath, suggest
from editspec_compiler.schema import AnySpec
from editspec_runtime.codes import Code

THIRD_NAME = (
    "to swap names, rename one edit to a third name, build, and rename again; if nothing was "
    "renamed, remove this entry"
)


def find_unfit_moves(document: Document, spec: AnySpec) -> Iterator[Problem]:
    """Find former names that still are names, and present ones that no edit has.

    Each entry leads from a name that no edit has to one that an edit has. So there are no chains
    and no cycles.
    """
    names = [edit.name for edit in spec.edits]
    single = isinstance(document.data.get("moved"), dict)
    later = {each.former: each.to for each in spec.moved}
    seen: dict[tuple[str, str], int] = {}
    for number, each in enumerate(spec.moved):
        path: SpecPath = ("moved",) if single else ("moved", number)
        if each.former in names:
            message = f"{each.former} still is the name of an edit"
            yield document.problem((*path, "from"), message, THIRD_NAME, code=Code.MOVED_UNFIT)
        elif each.to not in names:
            message, hint = _describe_end(each.to, later, names)
            yield document.problem((*path, "to"), message, hint, code=Code.MOVED_UNFIT)
        for key, name in (("from", each.former), ("to", each.to)):
            if (key, name) in seen:
                message = f"moved[{seen[key, name]}] names {name} there, too"
                hint = "an edit has one former name, and a name became one other: keep one entry"
                yield document.problem((*path, key), message, hint, code=Code.MOVED_UNFIT)
            seen.setdefault((key, name), number)


def _describe_end(name: str, later: dict[str, str], names: list[str]) -> tuple[str, str]:
    """Say where a name that no edit has leads, and what to write instead."""
    end, passed = name, {name}
    while end in later and later[end] not in passed:
        end = later[end]
        passed.add(end)
    if end in later:
        return "these entries lead in a circle", "remove the entries of names that no edit has"
    if end == name or end not in names:
        return f"there is no edit {end}", suggest(end, names)
    message = f"{name} is not the name of an edit: it became {end}"
    return message, f"every entry leads to a present name: write to: {end}"
