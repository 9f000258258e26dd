"""The search for the fields of an edit by trials, free of any modality.

A modality supplies what it knows: which layers to try, examples of the rule, inputs to preserve,
and a judge of what an edit does to inputs that shaped none of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from editspec.engine.modality_registry import engine_of
from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields, Judge, Judgement, TrialSolver
from editspec_compiler import SpecError
from editspec_runtime.core.method import FULL, LEARNED, LEARNED_DIRECTIONS
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError
from editspec_runtime.methods.registry import methods_taking

EXAMPLES, FEW_EXAMPLES = 16, 8
"""The examples of the rule besides the given ones, and those while layers are compared."""

NEW_PRESERVED = 8
"""The inputs that a round adds to what is preserved."""

WEIGHTS = (0.3, 0.1, 1.0)
"""The collateral weights that are tried while layers are compared, the first at every layer."""

FINALISTS = 2
"""The layers at which the other weights are tried."""

RANKS = (16, 8)
"""The ranks that are tried; the first is that of the rounds."""

REFINED_STEPS = 60
"""The steps on outputs that are tried last."""

REFINED_WEIGHTS = (24.0, 72.0)
"""The weights of the rule in these steps."""

MARGIN = 0.03
"""By how much less efficacy than the given edit's own an edit may have."""


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
        short = ("layer", "rank", "directions", "solver", "refine")
        said = {name: self.fields[name] for name in short if name in self.fields}
        numbers = dataclasses.asdict(self.judgement) if self.judgement else {}
        problem = {"problem": self.problem} if self.problem else {}
        return {"stage": self.stage, **said, **numbers, **problem}


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


class Tuner(Protocol):
    """What a modality knows of an edit that is tuned, on the model before it."""

    @property
    def layers(self) -> Sequence[str]:
        """The layers to try."""

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""

    def examples(self, count: int) -> Fields:
        """The fields that say the rule by the given examples and `count` found ones."""

    def first_preserved(self, count: int) -> list[Any]:
        """Entries of ``preserve`` with which the rounds begin."""

    @property
    def judge(self) -> Judge:
        """The judge of an edited model, on inputs that shaped none of the trials."""

    def find_changed(self, model: Model, known: Sequence[Any], count: int) -> list[Any]:
        """Find what the edited model visibly changes and should not, the worst first.

        Returns up to `count` entries of ``preserve`` besides those that are `known`.
        """

    def draw(self, model: Model) -> Any:
        """The inputs of the judge that change most where they should not, before and after."""

    def abbreviate(self, preserve: Sequence[Any]) -> list[Any]:
        """Entries of ``preserve`` as a person would write them."""


@runtime_checkable
class TunableModality(Protocol):
    """The optional power of a modality engine to tune edits."""

    def tuner(
        self, session: BuildSession, number: int, inputs: int, layers: Sequence[str]
    ) -> Tuner:
        """Look for examples of edit `number` among a number of inputs.

        The session has the edits before on its stack. `layers` are those to try; empty: all that
        fit. Raises `SpecError` where the edit has no examples that could be looked for, and
        `UsageError` where a layer does not fit.
        """


@dataclass(frozen=True)
class Tuning:
    """All trials of an edit, and the one that is picked."""

    trials: tuple[Trial, ...]
    rounds: tuple[Round, ...]
    given: Trial
    picked: Trial


def require_tunable(family: str) -> TunableModality:
    """The engine of a family's modality. Raises `UsageError` where that tunes nothing."""
    engine = engine_of(family)
    if not isinstance(engine, TunableModality):
        raise UsageError(
            f"Edits of the family {family} cannot be tuned yet.",
            "Vary layer and rank by hand, and compare the losses that build reports.",
        )
    return engine


@dataclass
class TuningRun:
    """The trials of one edit, in the order in which they are made.

    Attributes
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    tuner
        What the modality knows of the edit.
    progress
        A callback that is called as the work goes on.
    trials
        The trials so far.
    """

    session: BuildSession
    number: int
    tuner: Tuner
    progress: ProgressCallback
    trials: list[Trial] = field(default_factory=list)

    @staticmethod
    def open(
        session: BuildSession,
        number: int,
        inputs: int,
        layers: Sequence[str],
        progress: ProgressCallback,
    ) -> TuningRun:
        """Look for examples of an edit among a number of inputs; `layers` are those to try.

        Raises
        ------
        UsageError
            The modality tunes nothing, or a layer does not fit.
        SpecError
            The edit has no examples that could be looked for.
        """
        engine = require_tunable(session.loaded.spec.model.family)
        return TuningRun(session, number, engine.tuner(session, number, inputs, layers), progress)

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""
        return self.tuner.about

    @cached_property
    def solver(self) -> TrialSolver:
        """The function that makes trials."""
        return TrialSolver(self.session, self.number, self.tuner.judge)

    def tune(self, rounds: int) -> Tuning:
        """Find layer, weight, rank and directions, and what the edit must preserve.

        Parameters
        ----------
        rounds
            The most rounds in which what changes by mistake joins what is preserved.

        Raises
        ------
        SpecError
            The given edit is wrong.
        UsageError
            No trial can be solved.
        """
        given = self._attempt("given", {})
        best = self._compare_layers(given)
        done = self._preserve(best, rounds)
        self._try_last(done[-1] if done else None, best)
        self._try_refined(pick(self._candidates(), given))
        solved = self._candidates()
        # Where nothing better is found, the edit stays as it was given.
        picked = pick([given, *solved] if given.judgement else solved, given)
        return Tuning(tuple(self.trials), tuple(done), given, picked)

    def draw(self, trial: Trial) -> Any:
        """The inputs that a trial changes most where it should not, before and after."""
        return self.tuner.draw(self.solver.solve(trial.fields))

    def examples_alone(self) -> Fields:
        """The fields that every trial has, for what must be known before the work."""
        rule, preserve = self.tuner.examples(1), self.tuner.first_preserved(1)
        return _fields_of(self.tuner.layers[0], RANKS[0], WEIGHTS[0], rule, preserve)

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as a person would write them."""
        if not fields:
            return {}
        return {**fields, "preserve": self.tuner.abbreviate(fields.get("preserve", ())) or None}

    def _attempt(self, stage: str, fields: Fields) -> Trial:
        """Solve and judge the edit with these fields, as `_attempt_all`."""
        (trial,) = self._attempt_all(stage, [fields])
        return trial

    def _attempt_all(self, stage: str, choices: Sequence[Fields]) -> list[Trial]:
        """Solve and judge the edit with each of several fields; what cannot be solved says why.

        Raises `SpecError` where the given edit itself is wrong.
        """
        outcomes = self.session.travelling.map(
            self.solver, choices, self.session.device, threaded=True
        )
        made = []
        for fields in choices:
            self.progress(f"trial {len(self.trials) + 1}: {stage}", 0, 1)
            outcome = next(outcomes)
            if isinstance(outcome, str):
                trial = Trial(stage, fields, problem=outcome)
            else:
                trial = Trial(stage, fields, outcome)
            self.trials.append(trial)
            made.append(trial)
        return made

    def _prepare(self) -> None:
        """Compute C of every layer by all workers together, before each makes trials of its own.

        Errors are ignored here, since each trial reports its own.
        """
        if self.session.executor.workers == 1:
            return
        model = self.session.current_model()
        for layer in self.tuner.layers:
            with suppress(SpecError, EditError):
                self.session.second_moment(model, layer)

    def _limit(self, layer: str, rank: int) -> int:
        """The rank, or the largest that the layer has."""
        layers = self.session.current_model().architecture.layers
        return min(rank, layers[layer].in_features)

    def _compare_layers(self, given: Trial) -> Trial:
        """Compare layers and weights by changes of full rank, which are the fastest to find."""
        rule = self.tuner.examples(FEW_EXAMPLES)
        preserve = self.tuner.first_preserved(NEW_PRESERVED)

        def attempt(choices: Sequence[tuple[str, float]]) -> list[Trial]:
            """Make trials of layers and weights."""
            fields = [_fields_of(layer, FULL, each, rule, preserve) for layer, each in choices]
            return self._attempt_all("layers", fields)

        self._prepare()
        first = _solved(attempt([(layer, WEIGHTS[0]) for layer in self.tuner.layers]))
        rest, choices = list(first), []
        for _ in range(min(FINALISTS, len(first))):
            favourite = pick(rest, given)
            rest.remove(favourite)
            choices += [(favourite.fields["layer"], weight) for weight in WEIGHTS[1:]]
        return pick(_solved([*first, *attempt(choices)]), given)

    def _preserve(self, best: Trial, rounds: int) -> list[Round]:
        """Solve at a rank, and preserve what that changes by mistake, until nothing new shows."""
        layer, weight = best.fields["layer"], best.fields["solver"]["collateral_weight"]
        rule = self.tuner.examples(EXAMPLES)
        preserve = self.tuner.first_preserved(NEW_PRESERVED)
        done: list[Round] = []
        for number in range(1, rounds + 1):
            fields = _fields_of(layer, self._limit(layer, RANKS[0]), weight, rule, preserve)
            trial = self._attempt(f"round {number}", fields)
            if trial.judgement is None:
                break
            model = self.solver.solve(fields)
            added = self.tuner.find_changed(model, preserve, NEW_PRESERVED)
            done.append(Round(number, trial, tuple(added), self.tuner.draw(model)))
            if not added:
                break
            preserve = [*preserve, *added]
        return done

    def _try_last(self, last: Round | None, best: Trial) -> None:
        """Try other weights, ranks and directions with all that is preserved by now."""
        layer, weight = best.fields["layer"], best.fields["solver"]["collateral_weight"]
        rule = self.tuner.examples(EXAMPLES)
        preserve = best.fields.get("preserve", [])
        if last is not None:
            preserve = [*last.trial.fields.get("preserve", []), *last.added]
        most, fewer = (self._limit(layer, rank) for rank in RANKS)
        others = ((most, weight / 2), (most, weight * 2), (fewer, weight))
        tried = [_fields_of(layer, rank, other, rule, preserve) for rank, other in others]
        # The paper's own directions, of the context.
        fields = _fields_of(layer, most, weight, rule, preserve)
        self._attempt_all("last", [*tried, {**fields, "directions": None}])

    def _try_refined(self, best: Trial) -> None:
        """Try steps on outputs, from the best of the trials."""
        steps = [{"steps": REFINED_STEPS, "weight": weight} for weight in REFINED_WEIGHTS]
        self._attempt_all("refined", [{**best.fields, "refine": refine} for refine in steps])

    def _candidates(self) -> list[Trial]:
        """The solved trials that may be picked.

        What is within a rank is a rule; a change of full rank only says what is possible.
        """
        ranked = [trial for trial in self.trials[1:] if trial.fields["rank"] != FULL]
        solved = [trial for trial in ranked if trial.judgement is not None]
        return solved or _solved(self.trials[1:])


def pick(trials: Sequence[Trial], given: Trial) -> Trial:
    """Pick the trial that does most of what is asked, and shows least.

    Of the trials whose efficacy is at most `MARGIN` below that of the given edit, it is the one of
    the largest efficacy, as a share of the best one's, minus trace; the first of equals. Where
    there is none, it is that of the largest efficacy.
    """
    best = max(_numbers(trial).efficacy for trial in trials) or 1.0
    least = _numbers(given).efficacy - MARGIN if given.judgement else 0.0
    fit = [trial for trial in trials if _numbers(trial).efficacy >= least]
    if not fit:
        return max(trials, key=lambda trial: _numbers(trial).efficacy)
    return max(fit, key=lambda trial: _numbers(trial).efficacy / best - _numbers(trial).trace)


def _numbers(trial: Trial) -> Judgement:
    assert trial.judgement is not None
    return trial.judgement


def _solved(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that were solved. Raises `UsageError` where none was."""
    solved = [trial for trial in trials if trial.judgement is not None]
    if not solved:
        problems = "\n".join(dict.fromkeys(trial.problem for trial in trials))
        raise UsageError(
            f"No way of saying the edit can be solved.\n{problems}",
            "Give larger masks, or another source.",
        )
    return solved


def _fields_of(
    layer: str, rank: int | str, weight: float, rule: Mapping[str, Any], preserve: Sequence[Any]
) -> Fields:
    """The fields of a trial whose change is learned, within a rank or without."""
    (method, *_) = methods_taking(LEARNED_DIRECTIONS)
    fields: Fields = {"layer": layer, "rank": rank, **rule, "observe": None, "refine": None}
    if preserve:
        fields["preserve"] = list(preserve)
    fields["solver"] = {"method": method, "collateral_weight": weight}
    # A change of full rank has neither directions nor context.
    if rank == FULL:
        return {**fields, "directions": None, "context": None}
    return {**fields, "directions": LEARNED}
