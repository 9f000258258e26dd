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
from editspec.studio.answers import Answers
from editspec.studio.base import Base
from editspec.studio.draft import Draft
from editspec.studio.engine import Engine
from editspec.studio.jobs import Jobs
from editspec.studio.modalities.image.images import Images
from editspec.studio.modalities.image.looking import worst_of
from editspec.studio.modalities.image.states import Match
from editspec.studio.modality_registry import Question, StudioModality, TokenLine
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
    ModelState,
    Results,
    Sample,
    SolverState,
    State,
    Tokens,
    Traces,
)
from editspec_compiler import Problem
from editspec_compiler.problems import SHOWN, path_text
from editspec_compiler.schema import Solver
from editspec_compiler.uses import USE, is_used
from editspec_compiler.validation import fit
from editspec_runtime.codes import Code
from editspec_runtime.core.method import CONTEXT, FULL, PRESERVE, RANK, Method
from editspec_runtime.families.registry import FAMILIES
from editspec_runtime.maths.channelwise_least_squares import CURVE
from editspec_runtime.methods.registry import METHODS

NO_PLACES: dict[str, Any] = {
    "source": None,
    "target": None,
    "context": [],
    "preserved": 0,
    "note": "",
    "given": {},
    "tokens": [],
}
"""The description of an edit of which a modality says nothing."""

HIDDEN_SETTINGS = ("method", "collateral")
"""Settings of a solver for which the page has no field."""


HOLDING = ("source", "target", "pairs")
"""The keys of an edit that hold what its rule is about."""


def state_of(
    draft: Draft, engine: Engine, images: Images, outcome: Outcome | None, jobs: Jobs
) -> State:
    """Describe all that the page shows of a draft and of the `outcome` of its last build."""
    base, held, modality = engine.base(), draft.held(), engine.modality
    off = held.switched_off() if held.edits() else []
    after = None if outcome is None else outcome.after
    edits = [_describe_edit(held, n, is_off, engine, images, after) for n, is_off in enumerate(off)]
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
        model=_describe_model(base, modality),
        solvers=[_describe_solver(METHODS[name], modality) for name in modality.methods],
        collateral_weight=list(map(_round, CURVE)),
        can_undo=bool(draft.past),
        can_redo=bool(draft.future),
        results=_describe_results(draft, images, outcome),
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
                warning=problem.warning,
            )
        )
    return found


def _is_unfinished(problem: Problem) -> bool:
    """Tell whether a problem is that a source or a target is still to be said."""
    is_of_edit = len(problem.path) >= 3 and problem.path[0] == "edits"
    return problem.code == Code.KEY_MISSING and is_of_edit and problem.path[2] in HOLDING


def _describe_model(base: Base, modality: StudioModality) -> ModelState:
    architecture = base.model.architecture
    layers = []
    for layer in architecture.layers.values():
        key_size, value_size = modality.map_sizes(layer)
        layers.append(
            LayerState(
                name=layer.name,
                in_channels=layer.in_features,
                out_channels=layer.out_features,
                key_size=key_size,
                value_size=value_size,
            )
        )
    return ModelState(
        modality=FAMILIES[base.settings.model.family].modality,
        name=base.name,
        weights=base.settings.model.weights,
        digest=base.weights,
        layers=layers,
        groups=list(architecture.groups),
        **modality.describe_model(base),
    )


def _describe_solver(method: Method, modality: StudioModality) -> SolverState:
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
        curve=method.has_curve and modality.has_images,
    )


def _describe_match(place: SimilarPlace) -> Match:
    return Match(latent=place.latent, score=place.score, box=list(place.box))


def _describe_edit(
    draft: Draft, number: int, off: bool, engine: Engine, images: Images, after: str | None
) -> EditState:
    """Describe an edit as far as the text gives it; `after` names the edited model."""
    given, identity = draft.edits()[number], draft.present.identities[number]
    base, modality = engine.base(), engine.modality
    # The text is described while it is being typed, so that every part may be anything.
    edit = draft.shown_edit(number) if isinstance(given, dict) else {}
    found = images.found.get(identity)
    places = found.places if found is not None and found.layer == edit.get("layer") else ()
    fields = modality.edit_type.model_fields
    solver = fit(Solver, edit.get("solver", fields["solver"].default))
    settings = solver.model_dump(exclude_none=True) if solver is not None else {}
    rank = edit.get("rank")
    # type, not isinstance: True is an int, and not a rank.
    if type(rank) is not int and rank != FULL:
        rank = fields["rank"].default
    line, _ = draft.document().positions[("edits", number)]
    questions = modality.questions(draft, number, base)
    described = modality.describe_edit(draft, number, base)
    described["tokens"] = list(map(_describe_tokens, described.get("tokens", ())))
    return EditState(
        id=identity,
        name=str(edit.get("name", "")),
        layer=str(edit.get("layer", "")),
        layers=_layers_of(edit, fields["layers"].default if "layers" in fields else None),
        rank=rank,
        solver=settings,
        off=off,
        used=str(given[USE]) if is_used(given) else "",
        line=line,
        found=list(map(_describe_match, places)),
        samples=[_describe_sample(each, engine.answers, base.name, after) for each in questions],
        **(NO_PLACES | described),
    )


def _layers_of(edit: dict[str, Any], usual: Any) -> list[str]:
    """List the names of layers as an edit has them, or else as it has them by default."""
    if isinstance(edit.get("layer"), str) and edit["layer"]:
        return [edit["layer"]]
    given = edit.get("layers", usual)
    several = given if isinstance(given, list) else [given]
    return [name for name in several if isinstance(name, str)]


def _describe_tokens(line: TokenLine) -> Tokens:
    """Describe a text as tokens."""
    return Tokens(
        place=line.place,
        pieces=list(line.pieces),
        marked=list(line.marked),
        padding=line.padding,
        trouble=line.trouble,
    )


def _describe_sample(
    question: Question, answers: Answers, before: str, after: str | None
) -> Sample:
    """Describe a question with the answers that are there."""
    return Sample(
        role=question.role,
        words=question.words,
        wanted=question.wanted,
        before=_describe_answers(question, answers, before),
        after=[] if after is None else _describe_answers(question, answers, after),
    )


def _describe_answers(question: Question, answers: Answers, model: str) -> list[str | None]:
    """List the answers of a model: texts, and the names of pictures; None where there is none."""
    found: list[str | None] = []
    for asked in question.asked:
        name = Answers.name(model, asked)
        answer = answers.find(name)
        found.append(name if isinstance(answer, bytes) else answer)
    return found


def _describe_results(draft: Draft, images: Images, outcome: Outcome | None) -> Results | None:
    if outcome is None:
        return None
    present = set(digest_content(draft.text, draft.file))
    edits = []
    for number in range(len(outcome.built)):
        current = outcome.content[number + 1] in present
        edits.append(_describe_result(outcome, number, images, current=current))
    return Results(current=outcome.content[-1] == draft.content, after=outcome.after, edits=edits)


def _describe_result(outcome: Outcome, number: int, images: Images, *, current: bool) -> EditResult:
    built = outcome.built[number]
    rule, metadata, curve = built.rule, built.patch.metadata, images.find_curve(built)
    points = None
    if curve is not None:
        points = list(map(_describe_point, curve))
    collateral = predicted_collateral(built.patch)
    # The bound was chosen by pictures of images.
    judged = images.engine.modality.has_images
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
        high=collateral > HIGH_COLLATERAL and judged,
        traces=_describe_traces(images.find_traces(built)),
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
