"""The judge of an edit of facts: what it does to prompts that it was not made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates
from editspec.engine.model_session import ModelSession
from editspec.engine.result import count_of
from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.engine.trials import Judgement
from editspec.modalities.text.asked import (
    ARGMAX,
    Asked,
    asked_of,
    holds,
    neighbours_of,
    paraphrases_of,
    title_of,
)
from editspec.modalities.text.corpus import tokenizer_of
from editspec_compiler.modalities.text.schema import (
    Efficacy,
    Fact,
    Paraphrase,
    Specificity,
    TextEdit,
    text_spec,
)
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_compiler.problems import SpecError
from editspec_runtime.codes import Code
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import go_on, likeliest_tokens, wilson_interval

LENGTH = 8
"""The number of tokens that a completion has."""

SHOWN = 8
"""The most prompts that a table shows of what is asked for, and of what must stay."""

COLUMNS = ("prompt", "before", "after", "wanted")

CHANGED = "share of other facts whose likeliest next token changes"
"""What the trace is a share of, and what lies outside of an edit."""


def require_no_images(images: int | None) -> None:
    """Raise a `UsageError` where a number of images is given to judge facts by."""
    if images is not None:
        raise UsageError(
            "An edit of facts is judged by its paraphrases and by what must stay, and not by "
            "images.",
            "Leave out --images.",
        )


@dataclass(frozen=True)
class Half:
    """Half of what an edit can be judged on.

    Attributes
    ----------
    asked
        The prompts that are to lead on as the edit asks.
    facts
        Other facts, whose likeliest next token is to stay.
    """

    asked: tuple[Asked, ...]
    facts: tuple[Fact, ...]


class TextJudge:
    """The judge of an edit of facts, by its paraphrases and by what must stay.

    Paraphrases and other facts are those that the facts of the edit have, and those of the checks
    of the spec. What the edit preserves or keeps judges nothing. Every second one of both is held
    out.

    Parameters
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.

    Raises
    ------
    SpecError
        The edit names no text that could be asked for, or the spec names nothing that must stay.
    """

    def __init__(self, session: BuildSession, number: int) -> None:
        self.session, self.number = session, number
        self.spec = text_spec(session.loaded.spec)
        self.edit: TextEdit = self.spec.edits[number]
        self.before = cast(LanguageModel, session.current_model())
        self.own = tuple(asked_of(self.edit, self.tokenizer))
        paraphrases, facts = self._find_paraphrases(), self._find_facts()
        if not self.own:
            raise self._error(
                "no fact of this edit names a text or a prompt that it copies, which it could be "
                "judged by",
                "write source: {text: …}, or vary its fields by hand",
            )
        if not facts:
            raise self._error(
                "nothing says what must stay, which this edit could be judged by",
                "give neighbours to its pairs, or a check of specificity with facts that the edit "
                "neither keeps nor preserves",
            )
        self.judged = Half((*self.own, *paraphrases[::2]), tuple(facts[::2]))
        self.held_out = Half(tuple(paraphrases[1::2]), tuple(facts[1::2]))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return tokenizer_of(self.session.loaded)

    @property
    def holds_out(self) -> bool:
        """Whether enough is there to hold out both paraphrases and other facts."""
        return bool(self.held_out.asked and self.held_out.facts)

    @property
    def about(self) -> str:
        """What trials are judged on, in words."""
        said = f"{count_of(len(self.judged.asked), 'prompt')} and "
        said += count_of(len(self.judged.facts), "other fact")
        if not self.holds_out:
            return said
        rest = count_of(len(self.held_out.asked), "paraphrase")
        return f"{said}; {rest} and {count_of(len(self.held_out.facts), 'fact')} are held out"

    def __call__(self, model: Model) -> Judgement:
        """Judge the model after the edit."""
        return self.judge(cast(LanguageModel, model), self.judged)

    def judge(self, model: LanguageModel, half: Half) -> Judgement:
        """Judge the model after the edit on one half."""
        kept = self.find_kept(model, half.facts)
        held = self.find_held(model, half.asked)
        return Judgement(sum(held) / len(held), 1 - sum(kept) / len(kept))

    def find_held(self, model: LanguageModel, asked: Sequence[Asked]) -> list[bool]:
        """Find which prompts lead on as the edit asks, with the model after it."""
        checks = [check for check in self.spec.checks if isinstance(check, Efficacy)]
        by = checks[0].by if checks else ARGMAX
        return holds(asked, self.before, model, by)

    def find_kept(self, model: LanguageModel, facts: Sequence[Fact]) -> list[bool]:
        """Find of which facts the likeliest next token stays."""
        prompts = [self.tokenizer.locate(fact).tokens for fact in facts]
        before = likeliest_tokens(self.before, prompts)
        after = likeliest_tokens(model, prompts)
        return [one == two for one, two in zip(before, after, strict=True)]

    def estimate(self, model: LanguageModel) -> Estimates:
        """Measure efficacy and what changes elsewhere on both halves together."""
        whole = Half(
            (*self.judged.asked, *self.held_out.asked), (*self.judged.facts, *self.held_out.facts)
        )
        held, kept = self.find_held(model, whole.asked), self.find_kept(model, whole.facts)
        counts = {
            "efficacy": (sum(held), len(held)),
            "outside": (len(kept) - sum(kept), len(kept)),
        }
        numbers = {name: part / count for name, (part, count) in counts.items()}
        intervals = {name: wilson_interval(*counted) for name, counted in counts.items()}
        return Estimates(numbers, intervals)

    def tabulate(self, model: LanguageModel) -> Table:
        """Tabulate what the model says before and after the edit, what fails first."""
        judged = self.judged
        held = self.find_held(model, judged.asked)
        kept = self.find_kept(model, judged.facts)
        order = sorted(range(len(held)), key=lambda index: held[index])
        rows = []
        for index in order[:SHOWN]:
            asked = judged.asked[index]
            wanted = self.tokenizer.decode(asked.wanted) if asked.wanted else "see the spec"
            rows.append(self._row(model, asked.name, wanted))
        order = sorted(range(len(kept)), key=lambda index: kept[index])
        for index in order[:SHOWN]:
            rows.append(self._row(model, title_of(judged.facts[index]), "as before"))
        return Table(COLUMNS, tuple(rows))

    def _error(self, message: str, hint: str) -> SpecError:
        where = ("edits", self.number)
        return self.session.loaded.error(where, message, hint, Code.METHOD_NEEDS)

    def _row(self, model: LanguageModel, prompt: str, wanted: str) -> tuple[str, str, str, str]:
        tokens = self.tokenizer.encode(prompt).tokens
        before, after = (
            self.tokenizer.decode(go_on(each, tokens, LENGTH)) for each in (self.before, model)
        )
        return prompt, before, after, wanted

    def _find_paraphrases(self) -> list[Asked]:
        found = paraphrases_of(self.edit, self.tokenizer)
        for check in self.spec.checks:
            if isinstance(check, Paraphrase) and check.prompts and self._is_of_edit(check.edit):
                found += asked_of(self.edit, self.tokenizer, check.prompts)
        return list({each.name: each for each in found}.values())

    def _find_facts(self) -> list[Fact]:
        """The facts that must stay, without those that shape the edit."""
        found = list(neighbours_of(self.edit))
        for check in self.spec.checks:
            if isinstance(check, Specificity) and check.facts and self._is_of_edit(check.edit):
                found += check.facts
        shaping = {title_of(fact) for fact in self.edit.preserve or ()}
        for side in self.edit.sides:
            for prompt in (side.target.prompt, *(self.edit.keep or ())):
                shaping.add(title_of(Fact(prompt=prompt, subject=side.target.subject)))
        by_title = {title_of(fact): fact for fact in found}
        return [fact for title, fact in by_title.items() if title not in shaping]

    def _is_of_edit(self, name: str | None) -> bool:
        """Whether a check of the edit of a name, or of every edit, is of this one."""
        return name is None or name == self.edit.name


class SweepJudge:
    """The judge of the last edit of a spec, for sweeps.

    Parameters
    ----------
    session
        The spec with its unedited model. Raises `SpecError` as `TextJudge` does.
    """

    def __init__(self, session: BuildSession) -> None:
        # What could not judge is found here, before the work.
        TextJudge(session, len(session.loaded.spec.edits) - 1)

    def __call__(self, session: ModelSession, edit: BuiltEdit) -> Estimates:
        """Measure the last edit of a session on all that can judge it."""
        assert isinstance(session, BuildSession)
        last = len(session.stack) - 1
        judge = TextJudge(session.after(last), last)
        return judge.estimate(cast(LanguageModel, session.current_model()))
