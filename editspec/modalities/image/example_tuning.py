"""The search for the fields of an edit that has many examples: these stay, and others are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from editspec.engine.attempts import Round, Trial, Trials, Tuning, Wording, pick, solved_of
from editspec.engine.session import BuildSession
from editspec.engine.trials import Fields, TrialSolver
from editspec.modalities.image.given_examples import GivenExamples
from editspec.modalities.image.slots import abbreviate_places
from editspec_compiler.schema import Refine
from editspec_runtime.core.progress import ProgressCallback

SLOWER = ((2, 1 / 4), (4, 1 / 16))
"""By how much steps and weight are multiplied: more steps reach as far at a smaller weight."""

LIGHTER = ((1, 1 / 2), (1, 1 / 4))
"""The same where there are many steps already."""

MANY_STEPS = 480
"""The steps from which on more of them change little."""

ADDED = 96
"""The most images that a round adds to what is preserved."""

WORDING = Wording(
    trace="share of the images to preserve that change, the mean of five thresholds",
    shown="The images to preserve that change most with the edit that was found.",
    before="Those that the edit changed most as the spec had it.",
)


class ExampleTuning:
    """The search for the fields of an edit whose pairs and preserved images are given.

    Every fourth of both judges, and is in no trial. What is found has them all.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    examples
        The examples.
    progress
        A callback that is called as the work goes on.
    """

    wording = WORDING

    def __init__(
        self,
        session: BuildSession,
        number: int,
        examples: GivenExamples,
        progress: ProgressCallback,
    ) -> None:
        self.examples = examples
        self.trials = Trials(TrialSolver(session, number, examples.judge), progress)
        # What each trial says otherwise than the given edit, and what else it preserves.
        self.tried: list[tuple[Fields, tuple[int, ...]]] = []
        # The trials as a spec says them: with all examples.
        self.finals: list[Trial] = []

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""
        return self.examples.about

    def tune(self, rounds: int) -> Tuning:
        """Find layer, steps and weight, and what else to preserve.

        Parameters
        ----------
        rounds
            The most rounds in which images that change by mistake join what is preserved.

        Raises
        ------
        SpecError
            The given edit is wrong.
        UsageError
            No trial can be solved.
        """
        (given,) = self._try("given", [{}], ())
        self._try("layers", [{"layer": layer} for layer in self.examples.layers], ())
        best = self._find_best(given)
        self._try("steps", [self._refine(best, *each) for each in self._find_ways(best)], ())
        done = self._preserve(given, rounds)
        picked = self._find_best(given)
        self.finals = [self._finish(trial) for trial in self.trials.made]
        first, found = self.finals[0], self.finals[self._place_of(picked)]
        return Tuning(tuple(self.finals), tuple(done), first, found)

    def draw(self, trial: Trial) -> Any:
        """Draw the images to preserve that a trial changes most, before and after."""
        made = self.trials.made[self._place_of(trial)]
        return self.examples.draw(self.trials.solver.solve(made.fields))

    def example_fields(self) -> Fields:
        """Fields such as a trial has, for what must be known before the work."""
        fields = {"layer": self.examples.edit.layer, "refine": self._refine_fields({}, 1, 1)}
        return self.examples.final_fields(fields, self.examples.numbers[:1])

    def abbreviate(self, fields: Fields) -> Fields:
        """The fields of a trial as a person would write them."""
        if "preserve" not in fields:
            return fields
        return {**fields, "preserve": abbreviate_places(fields["preserve"])}

    def _preserve(self, given: Trial, rounds: int) -> list[Round]:
        """Preserve what changes by mistake, and solve again, as long as that is better."""
        done: list[Round] = []
        trial = self._find_best(given)
        fields, known = self._said_of(trial)
        for number in range(1, rounds + 1):
            model = self.trials.solver.solve(trial.fields)
            added = self.examples.find_changed(model, known, ADDED)
            entries = tuple({"latent": each} for each in added)
            done.append(Round(number, trial, entries, self.examples.draw(model)))
            if not added:
                break
            known = (*known, *added)
            (trial,) = self._try(f"round {number}", [fields], known)
            if trial is not self._find_best(given):
                break
        return done

    def _find_ways(self, best: Trial) -> tuple[tuple[int, float], ...]:
        """Find by how much steps and weight of a trial are multiplied in those that follow."""
        fields, _ = self._said_of(best)
        return LIGHTER if self._refine_of(fields).steps >= MANY_STEPS else SLOWER

    def _refine(self, best: Trial, steps: int, weight: float) -> Fields:
        """The fields of a trial with more steps, and another weight."""
        fields, _ = self._said_of(best)
        return {**fields, "refine": self._refine_fields(fields, steps, weight)}

    def _refine_of(self, fields: Fields) -> Refine:
        """The steps of a trial."""
        given = self.examples.edit.refine
        assert given is not None
        return given.model_copy(update=fields.get("refine", {}))

    def _refine_fields(self, fields: Fields, steps: int, weight: float) -> Fields:
        now = self._refine_of(fields)
        said = now.model_dump(exclude_unset=True)
        return {**said, "steps": steps * now.steps, "weight": weight * now.weight}

    def _find_best(self, given: Trial) -> Trial:
        return pick(solved_of(self.trials.made), given)

    def _said_of(self, trial: Trial) -> tuple[Fields, tuple[int, ...]]:
        """What a trial says otherwise than the given edit, and what else it preserves."""
        return self.tried[self._place_of(trial)]

    def _place_of(self, trial: Trial) -> int:
        """The number of a trial, as it was made or with all examples."""
        for trials in (self.trials.made, self.finals):
            places = [id(each) for each in trials]
            if id(trial) in places:
                return places.index(id(trial))
        raise ValueError("this trial is of another tuning")

    def _try(self, stage: str, choices: Sequence[Fields], added: tuple[int, ...]) -> list[Trial]:
        """Try fields, without the examples that judge, and with more images to preserve."""
        self.tried += [(fields, added) for fields in choices]
        whole = [self.examples.trial_fields(fields, added) for fields in choices]
        return self.trials.attempt_all(stage, whole)

    def _finish(self, trial: Trial) -> Trial:
        """The same trial with all examples of the edit."""
        return replace(trial, fields=self.examples.final_fields(*self._said_of(trial)))
