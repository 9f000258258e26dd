"""Picks of a point of a curve, which are written into the spec."""

from __future__ import annotations

import difflib
import json
import math
import os
from pathlib import Path
from typing import Any

from editspec.engine.folder import PARETO
from editspec.engine.pareto import VARY, has_curve, inputs_of
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec, load
from editspec_compiler.document import Document
from editspec_compiler.rewrite import Put, RewriteError, rewrite
from editspec_runtime.errors import FileError, UsageError
from editspec_runtime.io.files import require_file, write
from editspec_runtime.methods.registry import METHODS, methods_with_a_curve


def write_picked(session: BuildSession, out: Path, choice: str) -> LoadedSpec:
    """Write the collateral_weight of a point of `out`/pareto.json into the spec.

    `choice` is the number of the point, after ``NAME=`` where several edits have a curve. Returns
    the changed spec.

    Raises
    ------
    UsageError
        There is no such edit or point, the curve was made from other inputs, or the spec cannot be
        changed.
    """
    loaded = session.loaded
    name, _, given = choice.rpartition("=")
    number = _choose_edit(loaded, name)
    loaded.require_own(number)
    name = loaded.spec.edits[number].name
    curve = _read_curve(out / PARETO[0], name)
    if curve["inputs"] != inputs_of(session, number):
        raise UsageError(
            f"{out / PARETO[0]} was made from other inputs than {name} has now.",
            "Build with --pareto, and pick from what that shows.",
        )
    points = {str(point["number"]): point["collateral_weight"] for point in curve["points"]}
    if given not in points:
        known = "It has none, as its rule holds already."
        if points:
            known = f"The points are 1 to {len(points)}."
        raise UsageError(f"There is no point {given} of {name}.", known)
    weight = points[given]
    # The file may be damaged, and the number goes into the spec.
    if not (isinstance(weight, float) and math.isfinite(weight) and weight > 0):
        raise _nothing_to_pick(out / PARETO[0], f"is damaged: a collateral_weight is {weight}")
    text = set_collateral_weight(loaded.document, number, weight)
    file = loaded.path.resolve()
    # The file is replaced by a new one, so that its folder has to be writable as well.
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        raise UsageError(
            f"{loaded.path} cannot be written, and a pick is written there.",
            "Pick in a copy of it.",
        )
    write(file, text.encode())
    return load(loaded.path)


def set_collateral_weight(document: Document, number: int, collateral_weight: float) -> str:
    """The text of a spec with another collateral_weight of edit `number`.

    All else stays as it was written. Raises `UsageError` where the text does not let that alone be
    changed, for example where edits share a solver.
    """
    put = Put(
        ("edits", number, "solver", "collateral_weight"),
        collateral_weight,
        instead_of=("collateral",),
        short="method",
    )
    try:
        return rewrite(document.text, document.file, [put])
    except RewriteError as error:
        solver = document.data["edits"][number]["solver"]
        method = solver if isinstance(solver, str) else solver["method"]
        settings = f"{{method: {method}, collateral_weight: {collateral_weight!r}}}"
        raise UsageError(
            f"The solver of edit {number + 1} cannot be changed in {document.file} by itself.",
            f"Write it there: solver: {settings}",
        ) from error


def _choose_edit(loaded: LoadedSpec, name: str) -> int:
    """The number of the edit of a name; by default, of the only edit with a curve."""
    edits = loaded.spec.edits
    fit = [edit.name for edit in edits if has_curve(edit)]
    methods = " or ".join(methods_with_a_curve())
    if not name and len(fit) > 1:
        choices = ", ".join(f"{each}=N" for each in fit)
        raise UsageError(f"Several edits are solved by {methods}.", f"Give one: {choices}.")
    name = name or (fit or [edit.name for edit in edits])[0]
    named = {edit.name: (number, edit.solver.method) for number, edit in enumerate(edits)}
    if name not in named:
        hint = f"Known here: {', '.join(fit)}."
        if near := difflib.get_close_matches(name, fit, n=1):
            hint = f"Did you mean {near[0]}?"
        raise UsageError(f"There is no edit {name}.", hint)
    number, method = named[name]
    if METHODS[method].has_curve and not has_curve(edits[number]):
        raise UsageError(
            f"{name} is learned, of full rank or refined, and has no points to pick from.", VARY
        )
    if not METHODS[method].has_curve:
        raise UsageError(
            f"{name} is solved by {method}, which has no points to pick from.",
            f"Write solver: {methods}, and build with --pareto.",
        )
    return number


def _read_curve(path: Path, name: str) -> dict[str, Any]:
    """Read the curve of an edit that an earlier build wrote."""
    try:
        require_file(path)
        curves = json.loads(path.read_text())["curves"]
        (curve,) = [each for each in curves if each["edit"] == name]
        if not {"inputs", "points"} <= set(curve):
            raise KeyError(name)
        if any({"number", "collateral_weight"} - set(point) for point in curve["points"]):
            raise KeyError(name)
    except FileError as error:
        raise _nothing_to_pick(path, "is not there") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _nothing_to_pick(path, f"has no curve of {name}") from error
    return dict(curve)


def _nothing_to_pick(path: Path, why: str) -> UsageError:
    return UsageError(f"There is nothing to pick from: {path} {why}.", "Build with --pareto first.")
