"""What the API is sent and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from editspec.engine.session import BuiltEdit
from editspec.studio.draft import Draft
from editspec.studio.engine import FRESH, Engine
from editspec.studio.jobs import Jobs
from editspec_compiler import Problem
from editspec_compiler.problems import path_text
from editspec_compiler.schema import METHOD_FIELDS, OPTIONAL, SOLVERS, Box, Mask, Solver, fitting
from editspec_runtime.io.digests import digest
from editspec_runtime.methods.least_squares import CURVE, Point

Latent = Annotated[int, Field(ge=0, lt=2**63)]
Shift = Annotated[int, Field(ge=-8192, le=8192)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OnRevision(_Body):
    """A change that needs no more than the revision that it was made on."""

    revision: int = Field(ge=0)


class NewText(OnRevision):
    """The text of the spec."""

    text: str


class EditChange(OnRevision):
    """What is to change of an edit; what is left out stays."""

    name: str | None = None
    layer: str | None = None
    rank: int | None = Field(None, ge=1, lt=2**31)
    solver: dict[str, Any] | str | None = None
    off: bool | None = None
    position: int | None = Field(None, ge=0)


class PlaceChange(OnRevision):
    """A place that was painted: a data URL of a PNG, or a box in pixels."""

    latent: Latent
    mask: str | Box
    index: int | None = Field(None, ge=0)


class Paste(_Body):
    """Where the copied value goes: the source's mask, moved by some pixels, in an image."""

    latent: Latent
    right: Shift
    down: Shift


class PasteChange(OnRevision, Paste):
    """The same as a change of the spec."""


class SaveRequest(OnRevision):
    """Save, over what another program has written meanwhile or not."""

    overwrite: bool = False


class FoundProblem(BaseModel):
    """One thing that is wrong, at its line and column from 1 (0 where it has no place)."""

    message: str
    path: str
    line: int
    column: int
    hint: str


class Failure(BaseModel):
    """Why something was not done, and what to do."""

    message: str
    hint: str
    problems: list[FoundProblem]


class PlaceState(BaseModel):
    """A source, target or context: its image by number, or in words where it has none; its mask by
    a digest of what the spec says of it, empty where there is none.
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
    """A point of a curve: both losses are shares of those before the edit."""

    collateral_weight: float
    loss: float
    collateral: float


class EditResult(BaseModel):
    """What Execute made of an edit."""

    name: str
    layer: str
    rank: int | None
    method: str
    status: str
    loss: float
    residual: float | None
    collateral: float
    seconds: float
    digest: str
    curve: list[CurvePoint] | None


class Results(BaseModel):
    """What Execute made: whether of this text, the name of the generator that draws it, and each
    edit.
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
    """The model: the name of its generator, its weights, layers, image size and the streams of its
    latents.
    """

    name: str
    weights: str
    digest: str
    layers: list[LayerState]
    image_size: int
    seed: int
    fresh_seed: int


class SolverState(BaseModel):
    """A solver: its settings and their defaults, and whether an edit with it has a rank and a
    context.
    """

    method: str
    settings: dict[str, Any]
    rank: bool
    context: bool


class Match(BaseModel):
    """A place like those of a context: its image, how much it responds, and a box in pixels."""

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


SOLVER_STATES = [
    SolverState(
        method=method,
        settings={
            n: f.default
            for n, f in settings.model_fields.items()
            if n not in ("method", "collateral")
        },
        rank=METHOD_FIELDS[method]["rank"] == OPTIONAL,
        context=METHOD_FIELDS[method]["context"] == OPTIONAL,
    )
    for method, settings in SOLVERS.items()
]


def state_of(draft: Draft, engine: Engine, jobs: Jobs) -> State:
    """All that the page shows, as it is now."""
    base, failure = engine.base(), jobs.failure
    architecture = base.generator.architecture
    return State(
        revision=draft.revision,
        file=draft.file,
        text=draft.text,
        saved=draft.is_saved,
        changed_outside=draft.changed_outside,
        problems=problems_found(draft.problems()),
        edits=[_edit_state(draft, number, edit) for number, edit in enumerate(draft.edits())],
        model=ModelState(
            name=base.name,
            weights=base.said.weights,
            digest=base.weights,
            layers=[
                LayerState(**{field: getattr(layer, field) for field in LayerState.model_fields})
                for layer in architecture.layers.values()
            ],
            image_size=architecture.image_size,
            seed=base.latents.seed,
            fresh_seed=FRESH,
        ),
        solvers=SOLVER_STATES,
        collateral_weight=[_rounded(point) for point in CURVE],
        can_undo=bool(draft.past),
        can_redo=bool(draft.future),
        results=_results(draft, engine),
        found={
            name: [
                Match(latent=m["latent"], score=m["score"], box=m["context"]["mask"]["box"])
                for m in matches
            ]
            for name, matches in engine.found.items()
        },
        job=jobs.job.as_json() if jobs.job is not None else None,
        failure=Failure(
            message=failure["message"],
            hint=failure["hint"],
            problems=[FoundProblem(**problem) for problem in failure["problems"]],
        )
        if failure is not None
        else None,
    )


def _edit_state(draft: Draft, number: int, edit: Any) -> EditState:
    edit = edit if isinstance(edit, dict) else {}
    solver = fitting(Solver, edit.get("solver", "projected-gradient"))
    context = edit.get("context")
    notes = []
    if edit.get("pairs") is not None:
        notes.append("several pairs of sources and targets")
    if isinstance(edit.get("source"), dict) and "erase" in edit["source"]:
        notes.append("a value that is erased, not copied")
    if edit.get("observe") is not None:
        notes.append(f"observed at {edit['observe']}")
    return EditState(
        name=str(edit.get("name", "")),
        layer=str(edit.get("layer", "")),
        rank=edit["rank"] if type(edit.get("rank")) is int else 1,
        solver=solver.model_dump(exclude_none=True) if solver is not None else {},
        off=draft.is_off(number),
        line=draft.document().positions[("edits", number)][0],
        source=_place_state(edit.get("source")),
        target=_place_state(edit.get("target")),
        context=[state for place in context if (state := _place_state(place))]
        if isinstance(context, list)
        else [],
        note=" and ".join(notes),
    )


def _place_state(given: Any) -> PlaceState | None:
    if not isinstance(given, dict) or "latent" not in given:
        return None
    latent = given["latent"]
    number = latent if type(latent) is int and 0 <= latent < 2**63 else None
    words = (
        str(number)
        if number is not None
        else "a vector"
        if isinstance(latent, list)
        else "from a file"
    )
    mask = given.get("mask")
    return PlaceState(
        latent=number,
        words=words,
        mask=digest(mask)[:16] if fitting(Mask, mask) is not None else "",
    )


def _results(draft: Draft, engine: Engine) -> Results | None:
    outcome = engine.outcome
    if outcome is None:
        return None
    return Results(
        current=draft.executed,
        after=outcome.after,
        edits=[_edit_result(built, engine.known_curve(built)) for built in outcome.built],
    )


def _edit_result(built: BuiltEdit, curve: list[Point] | None) -> EditResult:
    return EditResult(
        name=built.rule.edit,
        layer=built.rule.layer,
        rank=built.rule.rank,
        method=built.rule.solver.method,
        status=built.status,
        loss=built.loss,
        residual=built.residual,
        collateral=max(
            (each["correlated"] for each in built.patch.metadata["collateral"].values()),
            default=0.0,
        ),
        seconds=sum(built.seconds.values()),
        digest=built.patch.metadata["content"],
        curve=None
        if curve is None
        else [
            CurvePoint(
                collateral_weight=_rounded(p.collateral_weight),
                loss=p.loss,
                collateral=p.collateral,
            )
            for p in curve
        ],
    )


def problems_found(problems: Iterable[Problem]) -> list[FoundProblem]:
    """Problems of the compiler as they are sent."""
    return [
        FoundProblem(
            message=p.message, path=path_text(p.path), line=p.line, column=p.column, hint=p.hint
        )
        for p in problems
    ]


def _rounded(collateral_weight: float) -> float:
    """A collateral_weight as it is written into a spec."""
    return float(f"{collateral_weight:.3g}")
