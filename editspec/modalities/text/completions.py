"""What models say before and after the edits of a spec, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from editspec.engine.session import BuildSession
from editspec.engine.table import Table
from editspec.modalities.text.asked import neighbours_of, title_of
from editspec.modalities.text.corpus import tokenizer_of
from editspec_compiler.modalities.text.schema import (
    Examined,
    Fact,
    Paraphrase,
    Specificity,
    TextEdit,
    TextSpec,
    Wanted,
    text_spec,
)
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import go_on

LENGTH = 8
"""The number of tokens that a completion has."""

COLUMNS = ("edit", "prompt", "before", "after", "wanted")

AS_BEFORE, OTHERWISE = "as before", "see the spec"


@dataclass(frozen=True)
class Prompted:
    """A prompt of a spec that models are asked to go on with.

    Attributes
    ----------
    edit
        The name of the edit that it belongs to.
    fact
        The prompt and its subject.
    text
        The text that is to follow; None where none is named.
    stays
        Whether the model is to go on as before the edit.
    """

    edit: str
    fact: Fact
    text: str | None = None
    stays: bool = False

    @property
    def wanted(self) -> str:
        """The answer that is wanted, in words."""
        if self.stays:
            return AS_BEFORE
        return self.text or OTHERWISE


@dataclass(frozen=True)
class Completion:
    """What follows a prompt before and after edits.

    Attributes
    ----------
    asked
        The prompt.
    before, after
        The likeliest continuations, token by token.
    holds
        Whether the one after is as it is wanted; None where the spec names no text.
    """

    asked: Prompted
    before: str
    after: str
    holds: bool | None

    @property
    def prompt(self) -> str:
        """The prompt with its subject."""
        return title_of(self.asked.fact)


def tabulate_completions(session: BuildSession, count: int) -> Table:
    """Complete the prompts of a spec before and after all edits, at most `count` of each edit.

    The completions are the likeliest ones, token by token. Paraphrases and neighbours of the facts
    follow the facts, and then what the checks name.
    """
    spec, tokenizer = text_spec(session.loaded.spec), tokenizer_of(session.loaded)
    before = cast(LanguageModel, session.base_model)
    for number in range(len(spec.edits)):
        session.edit(number)
    after = cast(LanguageModel, session.current_model())
    asked: list[Prompted] = []
    for number in range(len(spec.edits)):
        asked += list_prompts(spec, number, count)
    rows = []
    for each in complete(asked, before, after, tokenizer):
        rows.append((each.asked.edit, each.prompt, each.before, each.after, each.asked.wanted))
    return Table(COLUMNS, tuple(rows))


def complete(
    asked: Sequence[Prompted], before: LanguageModel, after: LanguageModel, tokenizer: Tokenizer
) -> list[Completion]:
    """Complete prompts with the model before and after edits."""
    found = []
    for each in asked:
        located = tokenizer.locate(each.fact)
        old = go_on(before, located.tokens, LENGTH)
        new = go_on(after, located.tokens, LENGTH)
        holds = None
        if each.stays:
            holds = old[:1] == new[:1]
        elif each.text is not None:
            wanted = tokenizer.continuation(located, each.text)
            holds = new[: len(wanted)] == wanted[:LENGTH]
        found.append(Completion(each, tokenizer.decode(old), tokenizer.decode(new), holds))
    return found


def list_prompts(spec: TextSpec, number: int, count: int) -> list[Prompted]:
    """List the prompts that belong to an edit, at most `count` of each kind, each once.

    These are its facts with their paraphrases, the neighbours, and what checks name.
    """
    edit = spec.edits[number]
    found = _list_facts(edit)[:count]
    found += [Prompted(edit.name, fact, stays=True) for fact in neighbours_of(edit)[:count]]
    for check in spec.checks:
        if check.edit not in (None, edit.name):
            continue
        if isinstance(check, Paraphrase):
            found += _rephrase(edit, check.prompts or ())[:count]
        if isinstance(check, Specificity):
            facts = (check.facts or ())[:count]
            found += [Prompted(edit.name, fact, stays=True) for fact in facts]
    # A prompt of several checks is asked once, as it is named first.
    once: dict[Fact, Prompted] = {}
    for each in found:
        once.setdefault(each.fact, each)
    return list(once.values())


def _list_facts(edit: TextEdit) -> list[Prompted]:
    found = []
    for side in edit.sides:
        text = side.source.text if isinstance(side.source, Wanted) else None
        found.append(Prompted(edit.name, side.target, text))
        if isinstance(side, Examined):
            for prompt in side.paraphrases or ():
                fact = Fact(prompt=prompt, subject=side.target.subject)
                found.append(Prompted(edit.name, fact, text))
    return found


def _rephrase(edit: TextEdit, prompts: Sequence[str]) -> list[Prompted]:
    """The facts of an edit in other prompts."""
    found = []
    for side in edit.sides:
        text = side.source.text if isinstance(side.source, Wanted) else None
        for prompt in prompts:
            fact = Fact(prompt=prompt, subject=side.target.subject)
            found.append(Prompted(edit.name, fact, text))
    return found
