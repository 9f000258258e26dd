"""A point of the choice that `pareto` shows, by its number: written into the spec, which says what
is built.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
from pathlib import Path
from typing import Any

import yaml

from editspec.engine.folder import PARETO
from editspec.engine.pareto import inputs_of
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.document import Document, parse
from editspec_compiler.rewrite import node_at, replaced
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.files import require_file, write


def picked(session: BuildSession, out: Path, choice: str) -> LoadedSpec:
    """The spec of a workshop with the collateral_weight of a point of `out`/pareto.json, written
    into its file.

    `choice` is the point's number, after ``NAME=`` where several edits are solved by least squares.

    Raises
    ------
    UsageError
        There is no such edit or point, what is there was made from something else, or the spec
        cannot be changed.
    """
    loaded = session.loaded
    name, _, given = choice.rpartition("=")
    number = _chosen(loaded, name)
    name = loaded.spec.edits[number].name
    curve = _curve(out / PARETO[0], name)
    if curve["inputs"] != inputs_of(session, number):
        raise UsageError(
            f"{out / PARETO[0]} was made from something else than what {name} is now.",
            "Build with --pareto, and pick from what that shows.",
        )
    points = {str(point["number"]): point["collateral_weight"] for point in curve["points"]}
    if given not in points:
        known = (
            f"The points are 1 to {len(points)}."
            if points
            else "It has none, as its rule holds already."
        )
        raise UsageError(f"There is no point {given} of {name}.", known)
    collateral_weight = points[given]
    if not (
        isinstance(collateral_weight, float)
        and math.isfinite(collateral_weight)
        and collateral_weight > 0
    ):
        raise _nothing_to_pick(
            out / PARETO[0], f"is damaged: a collateral_weight is {collateral_weight}"
        )
    text = with_collateral_weight(loaded.document, number, collateral_weight)
    if not (os.access(loaded.path, os.W_OK) and os.access(loaded.path.resolve().parent, os.W_OK)):
        raise UsageError(
            f"{loaded.path} cannot be written, and a pick is written there.",
            "Pick in a copy of it.",
        )
    write(loaded.path.resolve(), text.encode())
    return load(loaded.path)


def with_collateral_weight(document: Document, number: int, collateral_weight: float) -> str:
    """The text of a spec whose edit `number` has this collateral_weight; all else stays as it was
    written.

    Raises `UsageError` where the text does not let that alone be changed: where edits share a
    solver, say.
    """
    text, as_json = document.text, document.file.endswith(".json")
    wanted = copy.deepcopy(document.data)
    wanted["edits"][number]["solver"] = {
        "method": "least-squares",
        "collateral_weight": collateral_weight,
    }
    try:
        changed = replaced(text, [_change(text, as_json, number, collateral_weight)])
        if parse(changed, document.file).data == wanted:
            return changed
    except (yaml.YAMLError, SpecError):
        pass
    raise UsageError(
        f"The solver of edit {number + 1} cannot be changed in {document.file} by itself.",
        f"Write it there: solver: {{method: least-squares, collateral_weight: {collateral_weight!r}}}",
    )


def _change(
    text: str, as_json: bool, number: int, collateral_weight: float
) -> tuple[int, int, str]:
    """Where the collateral_weight of an edit belongs in the text: begin, end, and what is to stand
    there.
    """
    method, setting = (
        ('"method"', f'"collateral_weight": {collateral_weight!r}')
        if as_json
        else ("method", f"collateral_weight: {collateral_weight!r}")
    )
    # JSON may be indented with tabs, which YAML knows not; within JSON's strings there are none.
    solver = node_at(
        yaml.compose(text.replace("\t", " ") if as_json else text), ("edits", number, "solver")
    )
    assert solver is not None
    begin, end = solver.start_mark.index, solver.end_mark.index
    if isinstance(solver, yaml.ScalarNode):
        return begin, end, f"{{{method}: {text[begin:end]}, {setting}}}"
    assert isinstance(solver, yaml.MappingNode)
    for key, value in solver.value:
        if key.value in ("collateral_weight", "collateral"):
            return key.start_mark.index, value.end_mark.index, setting
    first, value = solver.value[0]
    if solver.flow_style:
        return value.end_mark.index, value.end_mark.index, f", {setting}"
    line = value.end_mark.index + len(text[value.end_mark.index :].partition("\n")[0].rstrip("\r"))
    newline = "\r\n" if text[line : line + 1] == "\r" else "\n"
    return line, line, newline + " " * first.start_mark.column + setting


def _chosen(loaded: LoadedSpec, name: str) -> int:
    """The edit of a name; without one, the only edit that is solved by least squares."""
    edits = loaded.spec.edits
    fit = [edit.name for edit in edits if edit.solver.method == "least-squares"]
    if not name and len(fit) > 1:
        raise UsageError(
            "Several edits are solved by least-squares.",
            f"Give one: {', '.join(f'{n}=N' for n in fit)}.",
        )
    name = name or fit[0]
    named = {edit.name: (number, edit.solver.method) for number, edit in enumerate(edits)}
    if name not in named:
        near = difflib.get_close_matches(name, fit, n=1)
        raise UsageError(
            f"There is no edit {name}.",
            f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(fit)}.",
        )
    number, method = named[name]
    if method != "least-squares":
        raise UsageError(
            f"{name} is solved by {method}, and points are picked of least-squares.",
            "Write solver: least-squares, and build with --pareto.",
        )
    return number


def _curve(path: Path, name: str) -> dict[str, Any]:
    """The curve of an edit that an earlier build wrote."""
    try:
        require_file(path)
        (curve,) = [each for each in json.loads(path.read_text())["curves"] if each["edit"] == name]
        if not {"inputs", "points"} <= set(curve) or any(
            {"number", "collateral_weight"} - set(p) for p in curve["points"]
        ):
            raise KeyError(name)
    except FileError as error:
        raise _nothing_to_pick(path, "is not there") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _nothing_to_pick(path, f"has no curve of {name}") from error
    return dict(curve)


def _nothing_to_pick(path: Path, why: str) -> UsageError:
    return UsageError(f"There is nothing to pick from: {path} {why}.", "Build with --pareto first.")
