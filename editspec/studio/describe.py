"""Descriptions of a draft, and of what was computed with it, as the page shows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from editspec.engine.collateral import predicted_collateral
from editspec.engine.pareto import ParetoPoint
from editspec.engine.warnings import HIGH_COLLATERAL
from editspec.modalities.image.explore import SimilarPlace
from editspec.modalities.image.traces import UnseenTraces
from editspec.studio.base import Base
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine
from editspec.studio.jobs import Jobs
from editspec.studio.looking import worst_of
from editspec.studio.outcomes import Outcome
from editspec.studio.parsed import digest_content
from editspec.studio.schemas import (
    CurvePoint,
    EditResult,
    EditState,
    Failure,
    FoundProblem,
    JobState,
    LayerState,
    Match,
    ModelState,
    PlaceState,
    Results,
    SolverState,
    State,
    Traces,
)
from editspec_compiler import Problem
from editspec_compiler.modalities.image.schema import PLURALS, Mask
from editspec_compiler.problems import SHOWN, path_text
from editspec_compiler.schema import Solver
from editspec_compiler.validation import fit
from editspec_runtime.codes import Code
from editspec_runtime.core.method import CONTEXT, FULL, PRESERVE, RANK, Method
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.io.digests import digest
from editspec_runtime.maths.channelwise_least_squares import CURVE
from editspec_runtime.methods.registry import DEFAULT_METHOD, METHODS
from editspec_runtime.modalities.image.streams import CHECKS

SIDES = ("source", "target")

HIDDEN_SETTINGS = ("method", "collateral")
"""Settings of a solver for which the page has no field."""


def state_of(draft: Draft, engine: Engine, outcome: Outcome | None, jobs: Jobs) -> State:
    """Describe all that the page shows of a draft and of the `outcome` of its last build."""
    base, held = engine.base(), draft.held()
    off = held.switched_off() if held.edits() else []
    edits = [_describe_edit(held, n, is_off, engine) for n, is_off in enumerate(off)]
    # Read once: the thread of the work sets it to None at its end.
    job = jobs.job
    job_state = JobState(**job.as_json()) if job is not None else None
    return State(
        revision=draft.revision,
        file=draft.file,
        text=draft.text,
        readable=draft.present.held is None,
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
        job=job_state,
        failure=_describe_failure(draft, jobs),
    )


def _describe_failure(draft: Draft, jobs: Jobs) -> Failure | None:
    """Describe why the last work failed, as long as the spec is the one that it failed on."""
    failure, cause = jobs.failure, jobs.cause
    if failure is None or cause != draft.content:
        return None
    return Failure.model_validate(failure)


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
                unfinished=_is_unfinished(problem),
            )
        )
    return found


def _is_unfinished(problem: Problem) -> bool:
    """Tell whether a problem is that a source or a target is still to be painted."""
    is_side = len(problem.path) == 3 and problem.path[2] in ("source", "target")
    return problem.code == Code.KEY_MISSING and is_side and problem.path[0] == "edits"


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
        modality=FAMILIES[base.settings.model.family].modality,
        name=base.name,
        weights=base.settings.model.weights,
        digest=base.weights,
        layers=layers,
        image_size=architecture.image_size,
        seed=base.settings.latents.seed,
        fresh_seed=CHECKS,
    )


def _describe_solver(method: Method) -> SolverState:
    settings = {
        name: field.default
        for name, field in method.settings.model_fields.items()
        if name not in HIDDEN_SETTINGS
    }
    return SolverState(
        method=method.name,
        about=inspect.getdoc(method.settings) or "",
        settings=settings,
        rank=RANK in method.takes,
        context=CONTEXT in method.takes,
        preserve=PRESERVE in method.takes,
        curve=method.has_curve,
    )


def _describe_match(place: SimilarPlace) -> Match:
    return Match(latent=place.latent, score=place.score, box=list(place.box))


def _describe_edit(draft: Draft, number: int, off: bool, engine: Engine) -> EditState:
    """Describe an edit as far as the text gives it."""
    given, identity = draft.edits()[number], draft.present.identities[number]
    # The text is described while it is being typed, so that every part may be anything.
    edit = given if isinstance(given, dict) else {}
    found = engine.found.get(identity)
    places = found.places if found is not None and found.layer == edit.get("layer") else ()
    solver = fit(Solver, edit.get("solver", DEFAULT_METHOD.name))
    context = edit.get("context")
    entries = context if isinstance(context, list) else []
    settings = solver.model_dump(exclude_none=True) if solver is not None else {}
    rank = edit.get("rank")
    # type, not isinstance: True is an int, and not a rank.
    if type(rank) is not int and rank != FULL:
        rank = 1
    line, _ = draft.document().positions[("edits", number)]
    return EditState(
        id=identity,
        name=str(edit.get("name", "")),
        layer=str(edit.get("layer", "")),
        rank=rank,
        solver=settings,
        off=off,
        line=line,
        source=_describe_place(edit.get("source")),
        target=_describe_place(edit.get("target")),
        context=list(filter(None, map(_describe_entry, entries))),
        preserved=_count_preserved(edit.get("preserve")),
        note=_note_of(edit),
        found=list(map(_describe_match, places)),
    )


def _count_preserved(given: Any) -> int:
    """Count the images that an edit preserves, as far as the text gives them."""
    count = 0
    for place in given if isinstance(given, list) else []:
        fields = place if isinstance(place, dict) else {}
        several = fields.get("latents")
        count += len(several) if isinstance(several, list) else int("latent" in fields)
    return count


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
    present = set(digest_content(draft.text, draft.file))
    edits = []
    for number in range(len(outcome.built)):
        current = outcome.content[number + 1] in present
        edits.append(_describe_result(outcome, number, engine, current=current))
    return Results(current=outcome.content[-1] == draft.content, after=outcome.after, edits=edits)


def _describe_result(outcome: Outcome, number: int, engine: Engine, *, current: bool) -> EditResult:
    built = outcome.built[number]
    rule, metadata, curve = built.rule, built.patch.metadata, engine.find_curve(built)
    points = None
    if curve is not None:
        points = list(map(_describe_point, curve))
    collateral = predicted_collateral(built.patch)
    return EditResult(
        edit=outcome.identities[number],
        current=current,
        name=rule.name,
        layer=rule.layer,
        rank=rule.rank,
        method=rule.method.method,
        status=built.status,
        loss=built.loss,
        residual=built.residual,
        collateral=collateral,
        high=collateral > HIGH_COLLATERAL,
        traces=_describe_traces(engine.find_traces(built)),
        warnings=list(built.warnings),
        seconds=sum(built.seconds.values()),
        digest=metadata["content"],
        curve=points,
    )


def _describe_traces(found: UnseenTraces | None) -> Traces | None:
    if found is None:
        return None
    low, high = found.estimates.intervals["trace"]
    share, images = found.estimates.numbers["trace"], len(found.latents)
    return Traces(share=share, low=low, high=high, images=images, worst=worst_of(found))


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
