"""The search for the fields of an edit by examples of its rule, and by rounds of preserving.

A modality supplies what it knows: which layers to try, examples of the rule, inputs to preserve,
and a judge of what an edit does to inputs that shaped none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from editspec.engine.attempts import (
    MARGIN,
    Round,
    Trial,
    Trials,
    Tuning,
    Wording,
    is_as_strong,
    pick,
    solved_of,
)
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

WEIGHT, HEAVY, LIGHT = 0.3, 1.0, 0.1
"""The collateral weight at which layers are compared, and those that are tried at the best."""

FINALISTS = 2
"""The layers at which the other weights are tried."""

RANKS = (16, 8)
"""The ranks that are tried; the first is that of the rounds."""

REFINED = {"steps": 60}
"""The steps on outputs that are tried last."""

REFINED_WEIGHTS = (24.0, 72.0)
"""The weights of the rule in these steps."""

LONGER = {"steps": 120, "weight": 72.0}
"""The steps that are tried where no trial is as strong as the given edit, and much cleaner."""

MORE_PRESERVED = 96
"""The preserved inputs of these steps, which have `MANY` examples."""

CLEAN = 0.5
"""The trace of a round above which to preserve a few inputs more is given up."""

MANY, MANY_PRESERVED = 64, 256
"""The examples, and the preserved inputs, of the steps that are tried then."""

ON_OUTPUTS = {"steps": 240, "at": "output"}
"""These steps: they aim at composited outputs."""

OUTPUT_WEIGHTS = (0.5, 2.0)
"""The weights of the rule in these steps."""


Attempt = Callable[[Sequence[tuple[str, float]]], list[Trial]]
"""A function that makes trials of layers and weights."""


class Tuner(Protocol):
    """What a modality knows of an edit that is tuned, on the model before it."""

    @property
    def layers(self) -> Sequence[str]:
        """The layers to try."""

    @property
    def large_layers(self) -> Collection[str]:
        """Layers whose whole change is too large to be found at once."""

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""

    def output_layers(self, layer: str) -> Sequence[str]:
        """The layers at which steps on outputs are tried where `layer` is the best of others."""

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

    def abbreviate(self, places: Sequence[Any]) -> list[Any]:
        """Entries of ``preserve`` or ``context`` as a person would write them."""


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
    named
        Whether the layers to try were named: then each is tried.
    """

    def __init__(
        self,
        session: BuildSession,
        number: int,
        tuner: Tuner,
        progress: ProgressCallback,
        *,
        named: bool = False,
    ) -> None:
        self.session, self.number, self.tuner, self.named = session, number, tuner, named
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
        if done and not _is_clean(done[-1].trial):
            self._try_outputs(best, given)
        else:
            self._try_last(done[-1] if done else None, best, given)
            self._try_refined(given)
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
        return self._fields(self.tuner.layers[0], RANKS[0], WEIGHT, rule, preserve)

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as a person would write them."""
        if not fields:
            return {}
        short = {**fields, "preserve": fields.get("preserve")}
        for name in ("context", "preserve"):
            if name in short:
                short[name] = self.tuner.abbreviate(short[name] or ()) or None
        return short

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
            fields = []
            for layer, weight in choices:
                rank = self._limit(layer, RANKS[0]) if self._is_large(layer) else FULL
                fields.append(self._fields(layer, rank, weight, rule, preserve))
            return self.trials.attempt_all("layers", fields)

        first = solved_of(self._try_layers(attempt, given))
        rest, favourites = list(first), []
        for _ in range(min(FINALISTS, len(first))):
            favourites.append(pick(rest, given))
            rest.remove(favourites[-1])
        names = [trial.fields["layer"] for trial in favourites]
        heavy = attempt([(name, HEAVY) for name in names])
        # What a heavier weight makes better, a lighter one makes worse.
        lighter = []
        for name, before, trial in zip(names, favourites, heavy, strict=True):
            if self._prefers(before, trial, given):
                lighter.append((name, LIGHT))
        return pick(solved_of([*first, *heavy, *attempt(lighter)]), given)

    def _try_layers(self, attempt: Attempt, given: Trial) -> list[Trial]:
        """Try the edit's own layer, and those before and behind it as long as they are better."""
        names = list(self.tuner.layers)
        own = self.session.loaded.spec.edits[self.number].layer_names[0]
        if self.named or own not in names:
            self.trials.prepare(names)
            return attempt([(name, WEIGHT) for name in names])
        middle = names.index(own)
        ways = [names[:middle][::-1], names[middle + 1 :]]
        near = [own, *(way[0] for way in ways if way)]
        self.trials.prepare(near)
        tried = attempt([(name, WEIGHT) for name in near])
        found = {trial.fields["layer"]: trial for trial in tried}
        for way in ways:
            before = found[own]
            for name in way:
                if name not in found:
                    (found[name],) = attempt([(name, WEIGHT)])
                if self._prefers(before, found[name], given):
                    break
                before = found[name]
        return list(found.values())

    def _prefers(self, one: Trial, other: Trial, given: Trial) -> bool:
        """Whether the first of two trials would be picked."""
        solved = [trial for trial in (one, other) if trial.judgement is not None]
        return bool(solved) and pick(solved, given) is one

    def _preserve(self, best: Trial, rounds: int) -> list[Round]:
        """Solve at a rank, and preserve what that changes by mistake, until nothing new shows."""
        layer, weight = best.fields["layer"], best.fields["solver"]["collateral_weight"]
        rule = self.tuner.examples(EXAMPLES)
        preserve = self.tuner.first_preserved(NEW_PRESERVED)
        done: list[Round] = []
        for number in range(1, rounds + 1):
            fields = self._fields(layer, self._limit(layer, RANKS[0]), weight, rule, preserve)
            trial = self.trials.attempt(f"round {number}", fields)
            if trial.judgement is None:
                break
            model = self.trials.solver.solve(fields)
            added = self.tuner.find_changed(model, preserve, NEW_PRESERVED)
            done.append(Round(number, trial, tuple(added), self.tuner.draw(model)))
            if not added or not _is_clean(trial):
                break
            preserve = [*preserve, *added]
        return done

    def _try_last(self, last: Round | None, best: Trial, given: Trial) -> None:
        """Try other weights, ranks and directions with all that is preserved by now."""
        layer, weight = best.fields["layer"], best.fields["solver"]["collateral_weight"]
        rule = self.tuner.examples(EXAMPLES)
        preserve = best.fields.get("preserve", [])
        if last is not None:
            preserve = [*last.trial.fields.get("preserve", []), *last.added]
        most, fewer = (self._limit(layer, rank) for rank in RANKS)
        others = ((most, weight / 2), (fewer, weight))
        tried = [self._fields(layer, rank, other, rule, preserve) for rank, other in others]
        if not self._is_large(layer):
            # The paper's own directions, of the context.
            tried.append(_fields_of(layer, most, weight, rule, preserve, learned=False))
        lighter, *_ = self.trials.attempt_all("last", tried)
        if last is None or self._prefers(last.trial, lighter, given):
            self.trials.attempt("last", self._fields(layer, most, 2 * weight, rule, preserve))

    def _try_refined(self, given: Trial) -> None:
        """Try steps on outputs, from the best of the trials."""
        best = pick(self._candidates(), given)
        before = best.judgement
        for weight in REFINED_WEIGHTS:
            refine = {**REFINED, "weight": weight}
            now = self.trials.attempt("refined", {**best.fields, "refine": refine}).judgement
            # A larger weight is only for a rule that the steps made weaker.
            if before and now and now.efficacy >= before.efficacy - MARGIN:
                break
        if not any(is_as_strong(trial, given) for trial in self._candidates()):
            self._try_longer(best)

    def _try_longer(self, best: Trial) -> None:
        """Try more steps on outputs, of many examples: few ones do not say all of the rule."""
        rule, preserve = self.tuner.examples(MANY), self.tuner.first_preserved(MORE_PRESERVED)
        layer, rank = best.fields["layer"], best.fields["rank"]
        fields = self._fields(layer, rank, WEIGHT, rule, preserve)
        self.trials.attempt("refined", {**fields, "refine": LONGER})

    def _try_outputs(self, best: Trial, given: Trial) -> None:
        """Try steps towards composited outputs, with many examples and preserved inputs.

        They draw what values of one layer cannot say. The directions are those of the examples,
        as many as there are.
        """
        rule = {**self.tuner.examples(MANY), "context": None}
        preserve = self.tuner.first_preserved(MANY_PRESERVED)
        light, heavy = OUTPUT_WEIGHTS
        fields = []
        for layer in self.tuner.output_layers(best.fields["layer"]):
            rank = self._limit(layer, RANKS[0])
            # The start changes little, since nothing of it is looked at.
            start = _fields_of(layer, rank, HEAVY, rule, preserve, learned=False)
            fields.append({**start, "refine": {**ON_OUTPUTS, "weight": light}})
        tried = self.trials.attempt_all("outputs", fields)
        solved = [trial for trial in tried if trial.judgement is not None]
        if solved:
            refine = {**ON_OUTPUTS, "weight": heavy}
            self.trials.attempt("outputs", {**pick(solved, given).fields, "refine": refine})

    def _fields(
        self,
        layer: str,
        rank: int | str,
        weight: float,
        rule: Mapping[str, Any],
        preserve: Sequence[Any],
    ) -> Fields:
        """The fields of a trial, in directions that can be found for the layer."""
        return _fields_of(layer, rank, weight, rule, preserve, learned=not self._is_large(layer))

    def _is_large(self, layer: str) -> bool:
        return layer in self.tuner.large_layers

    def _candidates(self) -> list[Trial]:
        """The solved trials that may be picked.

        What is within a rank is a rule; a change of full rank only says what is possible.
        """
        ranked = [trial for trial in self.trials.made[1:] if trial.fields["rank"] != FULL]
        solved = [trial for trial in ranked if trial.judgement is not None]
        return solved or solved_of(self.trials.made[1:])


def _is_clean(trial: Trial) -> bool:
    """Whether to preserve a few inputs more may be enough."""
    return trial.judgement is not None and trial.judgement.trace <= CLEAN


def _fields_of(
    layer: str,
    rank: int | str,
    weight: float,
    rule: Mapping[str, Any],
    preserve: Sequence[Any],
    learned: bool = True,
) -> Fields:
    """The fields of a trial, within a rank or without, in learned directions or the context's."""
    (method, *_) = methods_taking(LEARNED_DIRECTIONS)
    fields: Fields = {"layer": layer, "rank": rank, **rule, "observe": None, "refine": None}
    if preserve:
        fields["preserve"] = list(preserve)
    fields["solver"] = {"method": method, "collateral_weight": weight}
    # A change of full rank has neither directions nor context.
    if rank == FULL:
        return {**fields, "directions": None, "context": None}
    return {**fields, "directions": LEARNED if learned else None}
