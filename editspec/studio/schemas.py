"""The bodies that the API is sent, and its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from editspec.engine.built import BuiltEdit
from editspec.engine.collateral import predicted_collateral
from editspec.engine.pareto import ParetoPoint
from editspec.modalities.image.explore import SimilarPlace
from editspec.studio.base import Base
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine, Outcome
from editspec.studio.jobs import Jobs
from editspec_compiler import Problem
from editspec_compiler.modalities.image.schema import PLURALS, BoxMask, Mask
from editspec_compiler.problems import SHOWN, path_text
from editspec_compiler.schema import Solver
from editspec_compiler.validation import fit
from editspec_runtime.core.method import CONTEXT, RANK, Method
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.channelwise_least_squares import CURVE
from editspec_runtime.methods.registry import DEFAULT_METHOD, METHODS
from editspec_runtime.modalities.image.streams import REPORTS

Latent = Annotated[int, Field(ge=0, lt=2**63)]
Shift = Annotated[int, Field(ge=-8192, le=8192)]


SIDES = ("source", "target")

HIDDEN_SETTINGS = ("method", "collateral")
"""Settings of a solver for which the page has no field."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OnRevision(_Body):
    """A change that needs nothing but the revision that it was made on."""

    revision: int = Field(ge=0)


class NewText(OnRevision):
    """The text of the spec."""

    text: str


class EditChange(OnRevision):
    """Fields of an edit that are to change; fields that are left out stay."""

    name: str | None = None
    layer: str | None = None
    rank: int | None = Field(None, ge=1, lt=2**31)
    solver: dict[str, Any] | str | None = None
    off: bool | None = None
    position: int | None = Field(None, ge=0)


class PlaceChange(OnRevision):
    """A place that was painted: a data URL of a PNG, or a box in pixels."""

    latent: Latent
    mask: str | BoxMask
    index: int | None = Field(None, ge=0)


class Paste(_Body):
    """A place for the copied value: an image, and a shift of the mask in pixels."""

    latent: Latent
    right: Shift
    down: Shift


class PasteChange(OnRevision, Paste):
    """A paste as a change of the spec."""


class SaveRequest(OnRevision):
    """A request to save.

    `overwrite` allows to save over a file that another program has changed meanwhile.
    """

    overwrite: bool = False


class FoundProblem(BaseModel):
    """A problem with its line and column from 1, or 0 where it has no place."""

    message: str
    path: str
    line: int
    column: int
    hint: str
    code: str


class Failure(BaseModel):
    """The reason why something was not done, and what to do."""

    message: str
    hint: str
    problems: list[FoundProblem]


class PlaceState(BaseModel):
    """A source, a target, or a place of a context.

    Its image is given by number, or in words where it has none. Its mask is given by a digest of
    its text, empty where there is no mask.
    """

    latent: int | None
    words: str
    mask: str


class EditState(BaseModel):
    """An edit, as far as the text gives it."""

    name: str
    layer: str
    rank: int
    solver: dict[str, Any]
    off: bool
    line: int
    source: PlaceState | None
    target: PlaceState | None
    context: list[PlaceState]
    note: str


class CurvePoint(BaseModel):
    """A point of a curve: the numbers that Execute has with this collateral weight."""

    collateral_weight: float
    loss: float
    residual: float
    collateral: float


class Traces(BaseModel):
    """The share of unseen images that visibly change where the key does not match.

    `low` and `high` are the ends of its interval of 95 %.
    """

    share: float
    low: float
    high: float


class EditResult(BaseModel):
    """The result of Execute for an edit."""

    name: str
    layer: str
    rank: int | None
    method: str
    status: str
    loss: float
    residual: float | None
    collateral: float
    warnings: list[str]
    seconds: float
    digest: str
    curve: list[CurvePoint] | None
    traces: Traces | None


class Results(BaseModel):
    """The result of Execute.

    `current` tells whether the present text was executed; `after` names the generator that draws
    the result.
    """

    current: bool
    after: str
    edits: list[EditResult]


class LayerState(BaseModel):
    """A layer that can be edited: channels and positions of its keys and values."""

    name: str
    in_channels: int
    out_channels: int
    key_size: int
    value_size: int


class ModelState(BaseModel):
    """The model.

    `name` is that of its generator, `seed` the stream that the spec numbers, and `fresh_seed` a
    stream that no edit has seen.
    """

    name: str
    weights: str
    digest: str
    layers: list[LayerState]
    image_size: int
    seed: int
    fresh_seed: int


class SolverState(BaseModel):
    """A solver: its settings with their defaults, and the fields of its edits.

    An edit may have a rank, a context, and a curve of loss against collateral.
    """

    method: str
    settings: dict[str, Any]
    rank: bool
    context: bool
    curve: bool


class Match(BaseModel):
    """A place like those of a context: its image, its response, and a box in pixels."""

    latent: int
    score: float
    box: list[float]


class State(BaseModel):
    """All that the page shows."""

    revision: int
    file: str
    text: str
    saved: bool
    changed_outside: bool
    problems: list[FoundProblem]
    edits: list[EditState]
    model: ModelState
    solvers: list[SolverState]
    collateral_weight: list[float]
    can_undo: bool
    can_redo: bool
    results: Results | None
    found: dict[str, list[Match]]
    job: dict[str, Any] | None
    failure: Failure | None


def state_of(draft: Draft, engine: Engine, outcome: Outcome | None, jobs: Jobs) -> State:
    """Describe all that the page shows of a draft and of the `outcome` of its last build."""
    base = engine.base()
    found = {name: list(map(_describe_match, each)) for name, each in engine.found.items()}
    given = draft.edits()
    off = draft.switched_off() if given else []
    edits = [_describe_edit(draft, n, edit, off[n]) for n, edit in enumerate(given)]
    # Read once: the thread of the work sets it to None at its end.
    job = jobs.job
    job_state = job.as_json() if job is not None else None
    failure = Failure.model_validate(jobs.failure) if jobs.failure is not None else None
    return State(
        revision=draft.revision,
        file=draft.file,
        text=draft.text,
        saved=draft.is_saved,
        changed_outside=draft.is_changed_outside,
        problems=problems_found(draft.problems()),
        edits=edits,
        model=_describe_model(base),
        solvers=list(map(_describe_solver, METHODS.values())),
        collateral_weight=list(map(_round, CURVE)),
        can_undo=bool(draft.past),
        can_redo=bool(draft.future),
        results=_describe_results(draft, engine, outcome),
        found=found,
        job=job_state,
        failure=failure,
    )


def problems_found(problems: Iterable[Problem]) -> list[FoundProblem]:
    """Describe problems of the compiler."""
    found = []
    for problem in list(problems)[:SHOWN]:
        path, message, row = path_text(problem.path), problem.message, problem.row
        if row is not None:
            message = f"{row.file}:{row.line}:{row.column}: {message}"
        found.append(
            FoundProblem(
                message=message,
                path=path,
                line=problem.line,
                column=problem.column,
                hint=problem.hint,
                code=problem.code,
            )
        )
    return found


def _describe_model(base: Base) -> ModelState:
    architecture = base.generator.architecture
    layers = []
    for layer in architecture.layers.values():
        layers.append(
            LayerState(
                name=layer.name,
                in_channels=layer.in_features,
                out_channels=layer.out_features,
                key_size=layer.key_size,
                value_size=layer.value_size,
            )
        )
    return ModelState(
        name=base.name,
        weights=base.settings.model.weights,
        digest=base.weights,
        layers=layers,
        image_size=architecture.image_size,
        seed=base.settings.latents.seed,
        fresh_seed=REPORTS,
    )


def _describe_solver(method: Method) -> SolverState:
    settings = {
        name: field.default
        for name, field in method.settings.model_fields.items()
        if name not in HIDDEN_SETTINGS
    }
    return SolverState(
        method=method.name,
        settings=settings,
        rank=RANK in method.takes,
        context=CONTEXT in method.takes,
        curve=method.has_curve,
    )


def _describe_match(place: SimilarPlace) -> Match:
    return Match(latent=place.latent, score=place.score, box=list(place.box))


def _describe_edit(draft: Draft, number: int, given: Any, off: bool) -> EditState:
    """Describe an edit as far as the text gives it."""
    # The text is described while it is being typed, so that every part may be anything.
    edit = given if isinstance(given, dict) else {}
    solver = fit(Solver, edit.get("solver", DEFAULT_METHOD.name))
    context = edit.get("context")
    entries = context if isinstance(context, list) else []
    settings = solver.model_dump(exclude_none=True) if solver is not None else {}
    # type, not isinstance: True is an int, and not a rank.
    has_rank = type(edit.get("rank")) is int
    line, _ = draft.document().positions[("edits", number)]
    return EditState(
        name=str(edit.get("name", "")),
        layer=str(edit.get("layer", "")),
        rank=edit["rank"] if has_rank else 1,
        solver=settings,
        off=off,
        line=line,
        source=_describe_place(edit.get("source")),
        target=_describe_place(edit.get("target")),
        context=list(filter(None, map(_describe_entry, entries))),
        note=_note_of(edit),
    )


def _note_of(edit: dict[str, Any]) -> str:
    """Name the parts of an edit that the page cannot show."""
    notes = []
    if edit.get("pairs") is not None or any(_names_several(edit.get(side)) for side in SIDES):
        notes.append("several pairs of sources and targets")
    if isinstance(edit.get("source"), dict) and "erase" in edit["source"]:
        notes.append("a value that is erased, not copied")
    if isinstance(edit.get("source"), list):
        notes.append("several copies into one target")
    if isinstance(edit.get("source"), dict) and "nearest" in edit["source"]:
        notes.append("the most alike of several images")
    if edit.get("observe") is not None:
        notes.append(f"observed at {edit['observe']}")
    return " and ".join(notes)


def _names_several(given: Any) -> bool:
    """Tell whether a place of the text stands for several."""
    return isinstance(given, dict) and any(key in given for key in PLURALS)


def _describe_entry(given: Any) -> PlaceState | None:
    """Describe an entry of a context, which may stand for the rows of a file."""
    if isinstance(given, dict) and isinstance(given.get("file"), str):
        return PlaceState(latent=None, words=f"the rows of {given['file']}", mask="")
    return _describe_place(given)


def _describe_place(given: Any) -> PlaceState | None:
    several = _names_several(given)
    if not isinstance(given, dict) or not (several or "latent" in given):
        return None
    latent, mask = given.get("latent"), given.get("mask")
    mask_digest = ""
    if fit(Mask, mask) is not None:
        mask_digest = digest(mask)[:16]
    if several:
        return PlaceState(latent=None, words="several images", mask=mask_digest)
    if type(latent) is int and 0 <= latent < 2**63:
        return PlaceState(latent=latent, words=str(latent), mask=mask_digest)
    words = "a vector" if isinstance(latent, list) else "from a file"
    return PlaceState(latent=None, words=words, mask=mask_digest)


def _describe_results(draft: Draft, engine: Engine, outcome: Outcome | None) -> Results | None:
    if outcome is None:
        return None
    edits = [_describe_result(built, engine) for built in outcome.built]
    return Results(current=draft.executed, after=outcome.after, edits=edits)


def _describe_result(built: BuiltEdit, engine: Engine) -> EditResult:
    rule, metadata = built.rule, built.patch.metadata
    curve, found = engine.find_curve(built), engine.find_traces(built)
    points, traces = None, None
    if curve is not None:
        points = list(map(_describe_point, curve))
    if found is not None:
        low, high = found.intervals["trace"]
        traces = Traces(share=found.numbers["trace"], low=low, high=high)
    return EditResult(
        name=rule.name,
        layer=rule.layer,
        rank=rule.rank,
        method=rule.method.method,
        status=built.status,
        loss=built.loss,
        residual=built.residual,
        collateral=predicted_collateral(built.patch),
        warnings=list(built.warnings),
        seconds=sum(built.seconds.values()),
        digest=metadata["content"],
        curve=points,
        traces=traces,
    )


def _describe_point(point: ParetoPoint) -> CurvePoint:
    weight = _round(point.collateral_weight)
    return CurvePoint(
        collateral_weight=weight,
        loss=point.loss,
        residual=point.residual,
        collateral=point.collateral,
    )


def _round(collateral_weight: float) -> float:
    """Round a collateral weight as it is written into a spec."""
    return float(f"{collateral_weight:.3g}")
