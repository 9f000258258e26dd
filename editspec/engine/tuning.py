"""The search for the fields of an edit by examples of its rule, and by rounds of preserving.

A modality supplies what it knows: which layers to try, examples of the rule, inputs to preserve,
and a judge of what an edit does to inputs that shaped none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from editspec.engine.attempts import Round, Trial, Trials, Tuning, Wording, pick, solved_of
from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields, Judge, TrialSolver
from editspec_runtime.core.method import FULL, LEARNED, LEARNED_DIRECTIONS
from editspec_runtime.core.model import Model
from editspec_runtime.core.progress import ProgressCallback
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


class TuningRun:
    """The search by examples and by rounds in which what changes by mistake is preserved.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    tuner
        What the modality knows of the edit.
    progress
        A callback that is called as the work goes on.
    """

    def __init__(
        self, session: BuildSession, number: int, tuner: Tuner, progress: ProgressCallback
    ) -> None:
        self.session, self.tuner = session, tuner
        self.wording = Wording()
        self.trials = Trials(TrialSolver(session, number, tuner.judge), progress)

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""
        return self.tuner.about

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
        given = self.trials.attempt("given", {})
        best = self._compare_layers(given)
        done = self._preserve(best, rounds)
        self._try_last(done[-1] if done else None, best)
        self._try_refined(pick(self._candidates(), given))
        solved = self._candidates()
        # Where nothing better is found, the edit stays as it was given.
        picked = pick([given, *solved] if given.judgement else solved, given)
        return Tuning(tuple(self.trials.made), tuple(done), given, picked)

    def draw(self, trial: Trial) -> Any:
        """The inputs that a trial changes most where it should not, before and after."""
        return self.tuner.draw(self.trials.solver.solve(trial.fields))

    def example_fields(self) -> Fields:
        """The fields that every trial has, for what must be known before the work."""
        rule, preserve = self.tuner.examples(1), self.tuner.first_preserved(1)
        return _fields_of(self.tuner.layers[0], RANKS[0], WEIGHTS[0], rule, preserve)

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as a person would write them."""
        if not fields:
            return {}
        return {**fields, "preserve": self.tuner.abbreviate(fields.get("preserve", ())) or None}

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
            return self.trials.attempt_all("layers", fields)

        self.trials.prepare(self.tuner.layers)
        first = solved_of(attempt([(layer, WEIGHTS[0]) for layer in self.tuner.layers]))
        rest, choices = list(first), []
        for _ in range(min(FINALISTS, len(first))):
            favourite = pick(rest, given)
            rest.remove(favourite)
            choices += [(favourite.fields["layer"], weight) for weight in WEIGHTS[1:]]
        return pick(solved_of([*first, *attempt(choices)]), given)

    def _preserve(self, best: Trial, rounds: int) -> list[Round]:
        """Solve at a rank, and preserve what that changes by mistake, until nothing new shows."""
        layer, weight = best.fields["layer"], best.fields["solver"]["collateral_weight"]
        rule = self.tuner.examples(EXAMPLES)
        preserve = self.tuner.first_preserved(NEW_PRESERVED)
        done: list[Round] = []
        for number in range(1, rounds + 1):
            fields = _fields_of(layer, self._limit(layer, RANKS[0]), weight, rule, preserve)
            trial = self.trials.attempt(f"round {number}", fields)
            if trial.judgement is None:
                break
            model = self.trials.solver.solve(fields)
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
        self.trials.attempt_all("last", [*tried, {**fields, "directions": None}])

    def _try_refined(self, best: Trial) -> None:
        """Try steps on outputs, from the best of the trials."""
        steps = [{"steps": REFINED_STEPS, "weight": weight} for weight in REFINED_WEIGHTS]
        self.trials.attempt_all("refined", [{**best.fields, "refine": refine} for refine in steps])

    def _candidates(self) -> list[Trial]:
        """The solved trials that may be picked.

        What is within a rank is a rule; a change of full rank only says what is possible.
        """
        ranked = [trial for trial in self.trials.made[1:] if trial.fields["rank"] != FULL]
        solved = [trial for trial in ranked if trial.judgement is not None]
        return solved or solved_of(self.trials.made[1:])


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
