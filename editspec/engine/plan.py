"""The plan of a build: its steps, their cost, and the conflicts between edits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor

from editspec.engine.collateral import predicted_collateral
from editspec.engine.estimates import Estimate, Overlap
from editspec.engine.lock import CHANGED, CURRENT, DEPENDENT, MISSING, MOVED, NEW, removed_edits
from editspec.engine.modality_registry import EstimatingModality
from editspec.engine.model_session import on_device
from editspec.engine.result import DONE, TO_BUILD, CommandResult, describe_layers
from editspec.engine.session import BuildSession
from editspec.engine.warnings import warning_lines
from editspec_compiler.problems import Problem
from editspec_compiler.schema import AnyEdit
from editspec_runtime.core.method import LEARNED, OUTPUTS, KeyStatistics
from editspec_runtime.core.model import Model
from editspec_runtime.errors import NumericalError
from editspec_runtime.maths.metric import cosine, principal_cosines, unfold
from editspec_runtime.methods.layer_problem import find_directions
from editspec_runtime.methods.registry import method_of
from editspec_runtime.patches.patch import Patch

OVERLAPPING = 0.5
"""The cosine between two edits' directions, under C, from which they are said to overlap."""

UNDOING = -0.5
"""The cosine between two edits' changes, under C, down to which one is said to undo the other."""

SIGNS = {NEW: "+", CHANGED: "~", DEPENDENT: "~", MISSING: "+", CURRENT: " ", MOVED: ">"}


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of a plan.

    Attributes
    ----------
    name, layer
        The name and the layer of the edit.
    status, because
        The status as in `Step`, and the reasons.
    samples
        The count of items that the second moment will be taken over; 0 where it is cached.
    steps
        The count of steps that the solver will take.
    collateral
        The predicted E |dW k|^2 / E |W k|^2; None where there is no patch yet.
    warnings
        What is to be said of the patch, although it is right.
    estimate
        The cost of the edit, as it was measured; None where it is up to date, or not measured.
    """

    name: str
    layer: str
    status: str
    because: tuple[str, ...]
    samples: int
    steps: int
    collateral: float | None
    warnings: tuple[str, ...] = ()
    estimate: Estimate | None = None

    def to_lines(self) -> list[str]:
        """The edit as lines for people, with the reasons below it."""
        layers = describe_layers(self.layer)
        line = f"{SIGNS[self.status]} {self.name}: {self.status}, {layers}"
        if self.estimate is not None:
            line += f", {self.estimate.to_text()}"
        elif self.status not in (CURRENT, MOVED):
            samples = f"{self.samples} samples" if self.samples else "statistics cached"
            line += f", {samples}"
            if self.steps:
                line += f", {self.steps} steps"
        if self.collateral is not None:
            line += f", predicted collateral {self.collateral:.2e}"
        reasons = [f"    {reason}" for reason in self.because]
        return [line, *reasons, *warning_lines(self.name, self.warnings)]


@dataclass(frozen=True)
class Conflict:
    """Two edits of one layer.

    Attributes
    ----------
    edits, layer
        The names of both, and their layer.
    kind
        Whether their directions overlap, or the second undoes the first.
    overlap
        The largest cosine between their directions under C; None before they are built.
    cosine
        The cosine between their changes under C; None before they are built.
    """

    edits: tuple[str, str]
    layer: str
    kind: str
    overlap: float | None
    cosine: float | None

    def to_line(self) -> str:
        """The conflict as a line for people."""
        overlap = "overlap known once they are built"
        if self.overlap is not None:
            overlap = f"overlap {self.overlap:.2f}"
        layers = describe_layers(self.layer)
        return f"! {' and '.join(self.edits)}: {self.kind} ({layers}, {overlap})"


@dataclass(frozen=True)
class Plan(CommandResult):
    """The work that a build would do.

    Attributes
    ----------
    edits
        The edits in the order of the spec.
    removed
        The edits of the lock that the spec no longer has.
    conflicts
        The pairs of edits that change one parameter.
    overlaps
        What of the spec is nearly the same for the model.
    to_build
        The count of edits that a build would build.
    warnings, warning_lines
        What in the spec may not be meant, as values and for people.
    detailed_exitcode
        Whether the exit code says that there is something to build.
    """

    edits: tuple[PlannedEdit, ...]
    removed: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    to_build: int
    overlaps: tuple[Overlap, ...] = ()
    warnings: tuple[Problem, ...] = ()
    warning_lines: tuple[str, ...] = ()
    detailed_exitcode: bool = False

    @property
    def exit_code(self) -> int:
        """The exit code: 3 where there is something to build and it is to say so."""
        return TO_BUILD if self.detailed_exitcode and self.to_build else DONE

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        plain = super().to_dict()
        del plain["warning_lines"], plain["detailed_exitcode"]
        return plain | {"warnings": [problem.to_dict() for problem in self.warnings]}

    def to_text(self) -> str:
        """The plan for people."""
        lines = []
        for edit in self.edits:
            lines += edit.to_lines()
        lines += [f"- {name}: no longer in the spec" for name in self.removed]
        lines += [conflict.to_line() for conflict in self.conflicts]
        lines += [overlap.to_line() for overlap in self.overlaps]
        if self.to_build:
            lines.append(f"{self.to_build} of {len(self.edits)} edits to build")
        else:
            lines.append("nothing to build")
        return "\n".join([*lines, *self.warning_lines])


def make_plan(session: BuildSession) -> Plan:
    """Plan a session in which nothing has been built yet, and solve nothing."""
    views = []
    blocked: list[str] = []
    for number in range(len(session.loaded.spec.edits)):
        views.append(_view(session, number, blocked))
    conflicts = []
    for first, second in combinations(views, 2):
        conflict = _conflict(session, first, second)
        if conflict is not None:
            conflicts.append(conflict)
    overlaps: list[Overlap] = []
    modality = session.modality
    to_build = [step for step in session.steps if not step.current]
    if to_build and isinstance(modality, EstimatingModality):
        overlaps = modality.find_overlaps(session)
    return Plan(
        edits=tuple(view.planned for view in views),
        removed=tuple(removed_edits(session.loaded, session.lock)),
        conflicts=tuple(conflicts),
        to_build=len(to_build),
        overlaps=tuple(overlaps),
        warnings=session.loaded.warnings,
        warning_lines=tuple(session.loaded.warning_lines()),
    )


@dataclass(frozen=True)
class _View:
    """One edit as far as it is known before a build; None where it is not known yet."""

    number: int
    planned: PlannedEdit
    parameters: list[str]
    moment: Tensor | None
    directions: Tensor | None
    patch: Patch | None


@on_device
def _view(session: BuildSession, number: int, blocked: list[str]) -> _View:
    """Find out about edit `number` all that can be known without solving.

    `blocked` are the parameters that edits still to be built will change. Those of this edit are
    added where it is to be built.
    """
    edit, step = session.loaded.spec.edits[number], session.steps[number]
    model = session.current_model()
    names = edit.layer_names
    parameters = [model.architecture.layers[name].parameter for name in names]
    # An edit that is still to be built below the layer changes its keys, and so C and D.
    known = not set(blocked) & set(model.upstream(names[0]))
    moment = session.find_moment(model, names[0]) if known else None
    directions = patch = collateral = None
    samples = steps = 0
    warnings: tuple[str, ...] = ()
    estimate: Estimate | None = None
    if step.current:
        built = session.edit(number)
        patch, warnings = built.patch, built.warnings
        collateral = predicted_collateral(patch)
        if patch.parameters == parameters:
            directions = patch.row_space(parameters[0])
        parameters = patch.parameters
    else:
        steps = getattr(edit.solver, "steps", 0)
        if isinstance(session.modality, EstimatingModality):
            estimate = session.modality.estimate(session, number, follows=bool(blocked))
        else:
            samples = session.sample(model).count if moment is None else 0
        if OUTPUTS in method_of(edit.solver).needs:
            parameters = list(model.weights)
        elif moment is not None:
            directions = _directions(session, number, model, moment)
        blocked += parameters
    planned = PlannedEdit(
        edit.name,
        ",".join(names),
        step.status,
        tuple(step.because),
        samples,
        steps,
        collateral,
        warnings,
        estimate,
    )
    return _View(number, planned, parameters, moment, directions, patch)


def _directions(session: BuildSession, number: int, model: Model, moment: Tensor) -> Tensor | None:
    """The directions D [s, in] that edit `number` will have.

    None where they cannot be had without a sample of keys, or are found by solving.
    """

    def sample() -> Tensor:
        """Refuse to draw keys, which takes as long as a build."""
        raise NumericalError("A plan draws no keys.", "Build the spec.")

    compiled = session.compile(number)
    # The rules of several layers are resolved one after the other, each on the solved ones.
    if compiled.searches or len(compiled.rules) > 1:
        return None
    try:
        rule = session.rule(number, model)
        if rule.directions in (None, LEARNED) or len(rule.rules) != 1:
            return None
        keys = KeyStatistics(lambda: moment, sample)
        return find_directions(rule.rules[0], rule.directions, rule.rank, keys)
    except NumericalError:
        # Where the numbers are bad, the build says so, with a hint.
        return None


def _conflict(session: BuildSession, first: _View, second: _View) -> Conflict | None:
    """The conflict of two edits; None where they change different parameters."""
    shared = [name for name in first.parameters if name in second.parameters]
    if not shared:
        return None
    # C of the later edit is the one on which both changes meet.
    moment = second.moment if second.moment is not None else first.moment
    overlap = undone = None
    if moment is not None and len(shared) == 1:
        if first.directions is not None and second.directions is not None:
            overlap = float(principal_cosines(first.directions, second.directions, moment)[0])
        if first.patch is not None and second.patch is not None:
            changes = [unfold(patch.delta(shared[0])) for patch in (first.patch, second.patch)]
            undone = cosine(changes[0], changes[1], moment)
    edits = session.loaded.spec.edits
    before, after = edits[first.number], edits[second.number]
    if _are_swapped(before, after) or (undone is not None and undone <= UNDOING):
        kind = "the second undoes the first"
    elif overlap is not None and overlap >= OVERLAPPING:
        kind = "their directions overlap"
    else:
        kind = "the same layer"
    return Conflict((before.name, after.name), ",".join(after.layer_names), kind, overlap, undone)


def _are_swapped(before: AnyEdit, after: AnyEdit) -> bool:
    """Whether each edit copies from where the other pastes."""
    places = (before.source, before.target, after.source, after.target)
    if None in places:
        return False
    source, target, other_source, other_target = (_dump(place) for place in places)
    return bool(source == other_target and target == other_source)


def _dump(place: Any) -> Any:
    """A place, or a list of several, as plain values: places of different types are compared."""
    if isinstance(place, list):
        return list(map(_dump, place))
    return place.model_dump(exclude_none=True)
