"""The trials of a tuning, and what is said of them, free of any modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from editspec.engine.modality_registry import engine_of
from editspec.engine.session import BuildSession
from editspec.engine.trials import STATISTICS, Fields, Judgement, TrialSolver
from editspec_compiler import SpecError
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError

SAID = (
    "layer",
    "layers",
    "rank",
    "directions",
    "context",
    "optimise",
    "solver",
    "refine",
    STATISTICS,
)
"""The fields that are said of a trial; lists of examples and of preserved inputs are not."""

MARGIN = 0.03
"""By how much less efficacy than the given edit's own an edit may have."""

CLEANER = 1 / 3
"""The share of the given edit's trace that an edit may leave to be much cleaner."""

BARGAIN = 0.1
"""How much more it may lack for all of the trace that it leaves less than the given edit."""


@dataclass(frozen=True)
class Trial:
    """One way to say the edit, and what it does.

    Attributes
    ----------
    stage
        What it was tried for: ``given``, ``layers``, ``round N``, ``last`` or ``refined``.
    fields
        The fields that replace those of the given edit; none for the given edit itself.
    judgement
        What it does; None where it cannot be solved.
    problem
        The reason why it cannot be solved; empty where it was.
    """

    stage: str
    fields: Fields
    judgement: Judgement | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The trial as plain values, without the lists of examples and of preserved inputs."""
        said = {name: self.fields[name] for name in SAID if name in self.fields}
        numbers = dataclasses.asdict(self.judgement) if self.judgement else {}
        problem = {"problem": self.problem} if self.problem else {}
        return {"stage": self.stage, **said, **numbers, **problem}


def place_of(fields: Fields) -> str:
    """The layer or the layers of a trial; empty where they are as given."""
    layers = fields.get("layers")
    return ", ".join(layers) if layers else fields.get("layer") or ""


def describe_fields(fields: Fields) -> dict[str, str]:
    """The fields of a trial that a column of a table has, in words, by their names."""
    context, refine = fields.get("context"), fields.get("refine") or {}
    said = {
        "layer": place_of(fields),
        "rank": fields.get("rank"),
        "weight": fields.get("solver", {}).get("collateral_weight"),
        "steps": refine.get("steps"),
        "their weight": refine.get("weight"),
        "clamp": fields.get("optimise", {}).get("clamp"),
        "prefixes": context.get("prefixes") if isinstance(context, dict) else None,
        "tokens": fields.get(STATISTICS, {}).get("tokens"),
    }
    return {name: str(value) for name, value in said.items() if value not in (None, "")}


@dataclass(frozen=True)
class Round:
    """A round of preserving: what its trial changes where it should not.

    Attributes
    ----------
    number
        From 1.
    trial
        The edit of this round.
    added
        The entries of ``preserve`` that the round adds, by what the trial changes most.
    pictures
        The worst inputs before and after the trial, as the modality shows them; None where it has
        no pictures.
    """

    number: int
    trial: Trial
    added: tuple[Any, ...]
    pictures: Any = None


@dataclass(frozen=True)
class Tuning:
    """All trials of an edit, and the one that is picked.

    Attributes
    ----------
    trials, rounds
        The trials in order, and the rounds of preserving.
    given, picked
        The trial of the edit as it was given, and the one that is picked.
    held_out
        Both of these on inputs that no trial was judged on; empty where none are held out.
    """

    trials: tuple[Trial, ...]
    rounds: tuple[Round, ...]
    given: Trial
    picked: Trial
    held_out: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class Wording:
    """How a page speaks of a modality's inputs.

    Attributes
    ----------
    trace
        What the trace is a share of.
    shown, before
        What is shown of the picked trial, and of the given edit.
    """

    trace: str = "share of images that visibly change elsewhere"
    shown: str = (
        "The images of the judge that change most where they should not, with the edit that was "
        "found."
    )
    before: str = (
        "The images of the judge that the edit changed most where it should not, as the spec had "
        "it."
    )


class TuningProcess(Protocol):
    """The search for the fields of an edit, as a modality makes it."""

    wording: Wording

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""

    def tune(self, rounds: int) -> Tuning:
        """Make all trials, in so many rounds at most, and pick one.

        Raises `SpecError` where the given edit is wrong, `UsageError` where no trial is solved.
        """

    def draw(self, trial: Trial) -> Any:
        """The inputs of the judge before and after a trial: pictures, or a `Table`."""

    def example_fields(self) -> Fields:
        """Fields such as trials have, for what must be known before the work."""

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as a person would write them."""


@runtime_checkable
class TunableModality(Protocol):
    """The optional power of a modality engine to tune edits."""

    def start_tuning(
        self,
        session: BuildSession,
        number: int,
        inputs: int | None,
        layers: Sequence[str],
        progress: ProgressCallback,
    ) -> TuningProcess:
        """Start to tune edit `number`.

        The session has the edits before on its stack. `inputs` is the number of inputs that are
        looked through; None: the default. `layers` are those to try; empty: all that fit. Raises
        `SpecError` where the edit has nothing that it could be judged by, and `UsageError` where a
        layer does not fit.
        """


def require_tunable(family: str) -> TunableModality:
    """The engine of a family's modality. Raises `UsageError` where that tunes nothing."""
    engine = engine_of(family)
    if not isinstance(engine, TunableModality):
        raise UsageError(
            f"Edits of the family {family} cannot be tuned yet.",
            "Vary its fields by hand, and compare what editspec check says of each build.",
        )
    return engine


@dataclass
class Trials:
    """The trials of one edit, in the order in which they are made.

    Attributes
    ----------
    solver
        Solves and judges the edit with other fields.
    progress
        A callback that is called as the work goes on.
    made
        The trials so far.
    """

    solver: TrialSolver
    progress: ProgressCallback
    made: list[Trial] = field(default_factory=list)

    def attempt(self, stage: str, fields: Fields) -> Trial:
        """Solve and judge the edit with these fields, as `attempt_all`."""
        (trial,) = self.attempt_all(stage, [fields])
        return trial

    def attempt_all(self, stage: str, choices: Sequence[Fields]) -> list[Trial]:
        """Solve and judge the edit with each of several fields; what cannot be solved says why.

        Raises `SpecError` where the given edit itself is wrong.
        """
        session = self.solver.session
        outcomes = session.travelling.map(self.solver, choices, session.device, threaded=True)
        made = []
        for fields in choices:
            self.progress(f"trial {len(self.made) + 1}: {stage}", 0, 1)
            outcome = next(outcomes)
            if isinstance(outcome, str):
                trial = Trial(stage, fields, problem=outcome)
            else:
                trial = Trial(stage, fields, outcome)
            self.made.append(trial)
            made.append(trial)
        return made

    def prepare(self, layers: Sequence[str]) -> None:
        """Compute C of every layer by all workers together, before each makes trials of its own.

        Errors are ignored here, since each trial reports its own.
        """
        session = self.solver.session
        if session.executor.workers == 1:
            return
        model = session.current_model()
        for layer in layers:
            with suppress(SpecError, EditError):
                session.second_moment(model, layer)


def pick(trials: Sequence[Trial], given: Trial) -> Trial:
    """Pick the trial that does most of what is asked, and shows least.

    It is the one of the largest efficacy, as a share of the best one's, minus trace; the first of
    equals. It is picked of the trials that keep the given edit's efficacy but for `MARGIN`, and
    leave at most `CLEANER` of its trace. Where there are none: of those that lack at most `BARGAIN`
    of the trace that they save, besides. Where there are none either, the one of the largest
    efficacy is picked.
    """
    best = max(_numbers(trial).efficacy for trial in trials) or 1.0
    for fits in (is_as_strong, _is_a_bargain):
        if fit := [trial for trial in trials if fits(trial, given)]:
            return max(
                fit, key=lambda trial: _numbers(trial).efficacy / best - _numbers(trial).trace
            )
    return max(trials, key=lambda trial: _numbers(trial).efficacy)


def is_as_strong(trial: Trial, given: Trial) -> bool:
    """Whether an edit does what the given one does, and shows much less."""
    found, before = _numbers(trial), given.judgement
    if before is None:
        return True
    return found.efficacy >= before.efficacy - MARGIN and found.trace <= CLEANER * before.trace


def _is_a_bargain(trial: Trial, given: Trial) -> bool:
    """Whether an edit does enough of what the given one does, for the trace that it saves."""
    found, before = _numbers(trial), given.judgement
    if before is None:
        return True
    saved = max(0.0, before.trace - found.trace)
    return found.efficacy >= before.efficacy - MARGIN - BARGAIN * saved


def _numbers(trial: Trial) -> Judgement:
    assert trial.judgement is not None
    return trial.judgement


def solved_of(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that were solved. Raises `UsageError` where none was."""
    solved = [trial for trial in trials if trial.judgement is not None]
    if not solved:
        problems = "\n".join(dict.fromkeys(trial.problem for trial in trials))
        raise UsageError(
            f"No way of saying the edit can be solved.\n{problems}",
            "Give larger masks, another source, or other layers.",
        )
    return solved
