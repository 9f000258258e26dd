"""What a build would do, before it does it: the steps, their cost, and the edits that are in each
other's way.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from editspec.engine.lock import removed
from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec
from editspec_compiler.schema import Edit
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.metric import cosine, principal_cosines, row_space, unfolded
from editspec_runtime.methods.solve import Keys, rule_directions
from editspec_runtime.modalities.image.generator import Generator
from editspec_runtime.patches.patch import Patch

OVERLAPPING = 0.5
"""The cosine between two edits' directions, under C, from which they are said to overlap."""

UNDOING = -0.5
"""The cosine between two edits' changes, under C, down to which one is said to undo the other."""


def plan(
    spec: Path | str | LoadedSpec,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """What `build` would do on a `device` with a spec (and the folder `out`), as plain values.
    Solves nothing.

    Returns
    -------
    dict
        ``edits``: of each its name, layer, status, why (``because``), what it will cost
        (``samples`` of the second moment, 0 where it is cached; ``steps`` of the solver) and, where
        its patch is there, its predicted ``collateral`` E |dW k|^2 / E |W k|^2. ``removed``: edits
        of the lock that the spec no longer has. ``conflicts``: pairs of edits of one layer, the
        largest cosine between their directions under C (none where it is not known before they are
        built), and whether they overlap, or one undoes the other. ``to_build``: how many edits a
        build would build.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    EditError
        The weights are.
    """
    return planned(BuildSession.of(spec, device, progress, Path(out) if out is not None else None))


def planned(session: BuildSession) -> dict[str, Any]:
    """The same of a workshop in which nothing has been built yet."""
    views = []
    blocked: list[str] = []
    for number in range(len(session.loaded.spec.edits)):
        views.append(_view(session, number, blocked))
    entries = [view.entry for view in views]
    return {
        "edits": entries,
        "removed": removed(session.loaded, session.lock),
        "conflicts": [
            found
            for pair in combinations(views, 2)
            if (found := _conflict(session, *pair)) is not None
        ],
        "to_build": sum(not step.current for step in session.steps),
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    signs = {"new": "+", "changed": "~", "dependent": "~", "missing": "+", "up to date": " "}
    lines = []
    for edit in found["edits"]:
        line = f"{signs[edit['status']]} {edit['name']}: {edit['status']}, {edit['layer']}"
        if edit["status"] != "up to date":
            samples = f"{edit['samples']} samples" if edit["samples"] else "statistics cached"
            line += f", {samples}, {edit['steps']} steps"
        if edit["collateral"] is not None:
            line += f", predicted collateral {edit['collateral']:.2e}"
        lines += [line, *(f"    {reason}" for reason in edit["because"])]
    lines += [f"- {name}: no longer in the spec" for name in found["removed"]]
    for conflict in found["conflicts"]:
        first, second = conflict["edits"]
        known = conflict["overlap"]
        overlap = "overlap known once they are built" if known is None else f"overlap {known:.2f}"
        lines.append(f"! {first} and {second}: {conflict['kind']} ({conflict['layer']}, {overlap})")
    count = found["to_build"]
    lines.append(
        f"{count} of {len(found['edits'])} edits to build" if count else "nothing to build"
    )
    return "\n".join(lines)


class _View:
    """What is known of one edit before a build: its entry, and the parameters, C, D and change as
    far as there.
    """

    def __init__(self, number: int, parameters: list[str], entry: dict[str, Any]) -> None:
        self.number, self.parameters, self.entry = number, parameters, entry
        self.moment: Tensor | None = None
        self.directions: Tensor | None = None
        self.patch: Patch | None = None


def _view(session: BuildSession, number: int, blocked: list[str]) -> _View:
    """Look at edit `number`. `blocked` are the parameters that edits still to be built will change;
    it grows.
    """
    edit, step = session.loaded.spec.edits[number], session.steps[number]
    generator = session.generator()
    # What reaches the layer, and so C and D, is known unless an edit that is still to be built lies
    # before it.
    known = not set(blocked) & set(generator.upstream(edit.layer))
    moment = session.known_second_moment(generator, edit.layer) if known else None
    entry: dict[str, Any] = {
        "name": edit.name,
        "layer": edit.layer,
        "status": step.status,
        "because": list(step.because),
        "samples": 0
        if step.current or moment is not None
        else session.loaded.spec.statistics.samples,
        "steps": 0 if step.current else getattr(edit.solver, "steps", 0),
        "collateral": None,
    }
    view = _View(number, [generator.layer(edit.layer).parameter], entry)
    view.moment = moment
    if step.current:
        view.patch = session.edit(number).patch
        view.parameters = view.patch.parameters
        entry["collateral"] = predicted_collateral(view.patch)
        if view.parameters == [generator.layer(edit.layer).parameter]:
            view.directions = row_space(view.patch, view.parameters[0])
    else:
        if edit.solver.method == "all-weights":
            view.parameters = list(generator.weights)
        elif moment is not None:
            view.directions = _directions(session, number, generator, moment)
        blocked += view.parameters
    return view


def predicted_collateral(patch: Patch) -> float:
    """E |dW k|^2 / E |W k|^2 over all keys, the taps' correlation included; the largest of the
    layers that change.
    """
    return max(
        (layer["correlated"] for layer in patch.metadata["collateral"].values()), default=0.0
    )


def _directions(
    session: BuildSession, number: int, generator: Generator, moment: Tensor
) -> Tensor | None:
    """The directions D [s, in] that edit `number` will have; None where they cannot be had without
    a sample of keys.
    """

    def sample() -> Tensor:
        raise NumericalError("No keys are drawn for a plan.")

    try:
        rule = session.rule(number, generator)
        return (
            rule_directions(rule, Keys(lambda: moment, sample))
            if rule.directions is not None
            else None
        )
    except NumericalError:
        return None  # where the numbers are bad, the build says so, and what to do about it


def _conflict(session: BuildSession, first: _View, second: _View) -> dict[str, Any] | None:
    """How two edits of one layer are in each other's way; None for edits of different layers."""
    shared = [name for name in first.parameters if name in second.parameters]
    if not shared:
        return None
    moment = second.moment if second.moment is not None else first.moment
    overlap = undone = None
    if moment is not None and len(shared) == 1:
        if first.directions is not None and second.directions is not None:
            overlap = float(principal_cosines(first.directions, second.directions, moment)[0])
        if first.patch is not None and second.patch is not None:
            changes = [unfolded(patch.delta(shared[0])) for patch in (first.patch, second.patch)]
            undone = cosine(changes[0], changes[1], moment)
    edits = session.loaded.spec.edits
    before, after = edits[first.number], edits[second.number]
    if _swapped(before, after) or (undone is not None and undone <= UNDOING):
        kind = "the second undoes the first"
    elif overlap is not None and overlap >= OVERLAPPING:
        kind = "their directions overlap"
    else:
        kind = "the same layer"
    return {
        "edits": [before.name, after.name],
        "layer": after.layer,
        "kind": kind,
        "overlap": overlap,
        "cosine": undone,
    }


def _swapped(before: Edit, after: Edit) -> bool:
    """Whether one edit copies from where the other pastes, and the other way round."""
    there, back = (
        [
            None if place is None else place.model_dump(exclude_none=True)
            for place in (edit.source, edit.target)
        ]
        for edit in (before, after)
    )
    return None not in there and there == back[::-1]
