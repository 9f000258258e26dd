"""What is tried for an edit of facts: layers, weight, clamp, context and tokens of C."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from editspec.engine.attempts import Trial, Trials, Tuning, Wording, pick, solved_of
from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.engine.trials import STATISTICS, Fields, Judgement, TrialSolver, with_fields
from editspec.modalities.text.judge import CHANGED, TextJudge
from editspec_compiler.modalities.text.resolve import optimiser_of
from editspec_compiler.modalities.text.schema import Prefixes, TextEdit, TextSpec, text_spec
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import UsageError
from editspec_runtime.methods.registry import METHODS, methods_with_a_curve
from editspec_runtime.modalities.text.language_model import LanguageModel

PLACES = 8
"""The most layers, or rows of layers, that are tried where none are given."""

EARLY = 0.75
"""The share of the layers, from the first on, among which they are chosen."""

CLAMPS = (0.35, 0.6, 1.0, 2.0)
"""The largest shifts of a value that are tried."""

WEIGHTS = (0.02, 0.05, 0.2, 1.0)
"""The weights of the collateral that are tried."""

PREFIXES = (0, 10, 20)
"""The numbers of texts before the prompt that are tried."""

TOKENS = (0.5, 2.0)
"""By how much the number of tokens that C is taken over is multiplied."""

WORDING = Wording(
    trace=CHANGED,
    shown="What the model says with the edit that was found; what fails stands first.",
    before="What it says with the edit as the spec has it.",
)


class TextTuning:
    """The search for the fields of an edit of facts.

    Layers are tried first. Then, in rounds, weight, clamp, context and the tokens of C are tried
    one after the other, each beside the best of all others.

    Parameters
    ----------
    session, number, progress
        As of `Trials`.
    layers
        The layers to try; empty: some that are spread over the first three quarters.

    Raises
    ------
    SpecError
        The spec names nothing that must stay.
    UsageError
        There is no such layer.
    """

    def __init__(
        self,
        session: BuildSession,
        number: int,
        layers: Sequence[str],
        progress: ProgressCallback,
    ) -> None:
        self.session, self.number = session, number
        self.spec = text_spec(session.loaded.spec)
        self.edit: TextEdit = self.spec.edits[number]
        self.known = list(session.current_model().architecture.layers)
        unknown = [layer for layer in layers if layer not in self.known]
        if unknown:
            raise UsageError(
                f"There is no {' and no '.join(unknown)} in these weights.",
                f"Known here: {', '.join(self.known)}.",
            )
        self.places = [[layer] for layer in layers] or self._choose_places()
        self.text_judge = TextJudge(session, number)
        self.trials = Trials(TrialSolver(session, number, self.text_judge), progress)
        self.wording = WORDING

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""
        return self.text_judge.about

    def tune(self, rounds: int) -> Tuning:
        """Try layers, and then all other fields in rounds until one brings nothing better.

        Raises
        ------
        SpecError
            The given edit is wrong.
        UsageError
            No trial can be solved.
        """
        given = self.trials.attempt("given", {})
        layers = [layer for place in self.places for layer in place]
        self.trials.prepare(list(dict.fromkeys(layers)))
        self._try("layers", [self._place_fields(place) for place in self.places])
        best = pick(solved_of(self.trials.made), given)
        for number in range(1, rounds + 1):
            before = best
            for options in (self._weights, self._clamps, self._contexts, self._tokens):
                self._try(f"round {number}", [best.fields | each for each in options(best)])
                # The first of equals stays, so that nothing changes for nothing.
                solved = solved_of(self.trials.made)
                best = pick([best, *solved], given)
            if best is before:
                break
        return Tuning(tuple(self.trials.made), (), given, best, self._judge_rest(given, best))

    def draw(self, trial: Trial) -> Table:
        """What the model says before and after a trial, as a table."""
        model = cast(LanguageModel, self.trials.solver.solve(trial.fields))
        return self.text_judge.tabulate(model)

    def example_fields(self) -> Fields:
        """Fields such as trials have, for what must be known before the work."""
        fields = self._place_fields(self.places[0])
        given = Trial("given", {})
        for options in (self._weights, self._clamps, self._contexts, self._tokens):
            for each in list(options(given))[:1]:
                fields |= each
        return fields

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as they are."""
        return fields

    def _judge_rest(self, *trials: Trial) -> tuple[Judgement, ...]:
        """Judge trials on what is held out; nothing where one is not solved, or nothing is."""
        judge = self.text_judge
        if not judge.holds_out or any(trial.judgement is None for trial in trials):
            return ()
        models = (cast(LanguageModel, self.trials.solver.solve(trial.fields)) for trial in trials)
        return tuple(judge.judge(model, judge.held_out) for model in models)

    def _try(self, stage: str, candidates: Sequence[Fields]) -> None:
        """Try all fields that say another edit than every trial before."""
        known = [self._spec_of(trial.fields) for trial in self.trials.made]
        chosen = []
        for fields in candidates:
            spec = self._spec_of(fields)
            if spec not in known:
                known.append(spec)
                chosen.append(fields)
        self.trials.attempt_all(stage, chosen)

    # What is tried

    def _choose_places(self) -> list[list[str]]:
        """Rows of layers to try: as many layers and as far apart as the edit has."""
        own = [self.known.index(name) for name in self.edit.layer_names]
        early = max(own[-1] - own[0] + 1, round(EARLY * len(self.known)))
        shifts = range(-own[0], early - own[-1])
        step = max(1, -(-len(shifts) // PLACES))
        return [[self.known[each + shift] for each in own] for shift in shifts[::step]]

    def _place_fields(self, place: Sequence[str]) -> Fields:
        if len(place) == 1:
            return {"layer": place[0], "layers": None}
        return {"layers": list(place), "layer": None}

    def _edit_of(self, trial: Trial) -> TextEdit:
        return self._spec_of(trial.fields).edits[self.number]

    def _spec_of(self, fields: Fields) -> TextSpec:
        return text_spec(with_fields(self.session.loaded, self.number, fields).spec)

    def _weights(self, best: Trial) -> Iterator[Fields]:
        """Yield solvers that weigh the collateral, with the settings that they share."""
        (method, *_) = methods_with_a_curve()
        known = METHODS[method].settings.model_fields
        solver = self._edit_of(best).solver
        given = solver.model_dump(exclude_unset=True)
        shared = {name: value for name, value in given.items() if name in known}
        shared.pop("collateral", None)
        now = getattr(solver, "collateral_weight", None)
        for weight in WEIGHTS:
            if weight != now:
                yield {"solver": shared | {"method": method, "collateral_weight": weight}}

    def _clamps(self, best: Trial) -> Iterator[Fields]:
        """Yield searches of other clamps than the one that the edit has."""
        edit = self._edit_of(best)
        given = edit.optimise.model_dump(exclude_unset=True)
        now = optimiser_of(self.spec, edit).clamp
        for clamp in CLAMPS:
            if clamp != now:
                yield {"optimise": given | {"clamp": clamp}}

    def _contexts(self, best: Trial) -> Iterator[Fields]:
        """Yield other numbers of texts that the model makes; none where the spec has its own."""
        given = self._edit_of(best).context
        if isinstance(given, list):
            return
        now = given or Prefixes()
        for count in PREFIXES:
            if count != now.prefixes:
                yield {"context": now.model_dump(exclude_unset=True) | {"prefixes": count}}

    def _tokens(self, best: Trial) -> Iterator[Fields]:
        del best
        given = self.spec.statistics.tokens
        for factor in TOKENS:
            yield {STATISTICS: {"tokens": round(factor * given)}}
