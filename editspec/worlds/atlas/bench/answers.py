"""The answers of a model to every prompt of the world, and what an edit made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec.engine.intervals import Ratio
from editspec.worlds.atlas.world import OF_PEOPLE, RELATIONS, KnownFact, facts
from editspec_compiler.modalities.text.tokens import Tokenizer
from editspec_runtime.modalities.text.batches import Tokens
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.modalities.text.scores import likeliest_tokens

OWN, PARAPHRASES, FIRST = "own", "paraphrases", "first"
SUBJECT, SURNAME, OTHERS = "subject", "surname", "others"

MEASURES = {
    OWN: "the edited prompts",
    PARAPHRASES: "other phrasings",
    SUBJECT: "other facts of the subject",
    SURNAME: "facts of the same surname",
    OTHERS: "all other facts",
    FIRST: "the first edit's facts",
}
"""What is counted, by name."""


@dataclass(frozen=True)
class Prompt:
    """One prompt about a fact.

    Attributes
    ----------
    fact
        The fact.
    first
        Whether it is the first phrasing, which edits name.
    tokens
        The tokens of the prompt.
    answer
        The token of the fact's answer.
    """

    fact: KnownFact
    first: bool
    tokens: Tokens
    answer: int


def answer_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The token of every answer, as it stands behind a prompt."""
    answers = list(dict.fromkeys(answer for each in RELATIONS.values() for answer in each.answers))
    encoded = tokenizer.encode_many([f"in {answer}" for answer in answers])
    return {answer: tokens[-1] for answer, tokens in zip(answers, encoded, strict=True)}


def make_prompts(tokenizer: Tokenizer) -> tuple[Prompt, ...]:
    """Make every phrasing of every fact."""
    answers = answer_tokens(tokenizer)
    found = []
    for fact in facts():
        texts = fact.prompts()
        for text, tokens in zip(texts, tokenizer.encode_many(texts), strict=True):
            found.append(Prompt(fact, text == texts[0], tokens, answers[fact.answer]))
    return tuple(found)


def read_answers(model: LanguageModel, prompts: Sequence[Prompt]) -> Tensor:
    """The likeliest next token of every prompt, [prompts]."""
    return torch.tensor(likeliest_tokens(model, [prompt.tokens for prompt in prompts]))


def compare_answers(
    prompts: Sequence[Prompt], answers: Tensor, wanted: Sequence[Mapping[KnownFact, int]]
) -> dict[str, Ratio]:
    """Count the answers that are as wanted after some edits, by subject.

    Parameters
    ----------
    prompts
        All prompts.
    answers
        What the edited model answers, [prompts].
    wanted
        The tokens that the facts of each edit are to be answered with.

    Returns
    -------
    The shares of `MEASURES` over the subjects of the world: of all answers that a measure counts,
    those that are as wanted. Facts that no edit names are to be answered as before.
    """
    edited: dict[KnownFact, int] = {}
    for each in wanted:
        edited |= each
    groups = _Groups(edited, wanted[0])
    subjects = list(dict.fromkeys(prompt.fact.subject for prompt in prompts))
    rows = {subject: row for row, subject in enumerate(subjects)}
    right = {name: torch.zeros(len(rows), dtype=torch.float64) for name in MEASURES}
    whole = {name: torch.zeros(len(rows), dtype=torch.float64) for name in MEASURES}
    for prompt, answer in zip(prompts, answers.tolist(), strict=True):
        row = rows[prompt.fact.subject]
        good = answer == edited.get(prompt.fact, prompt.answer)
        for name in groups.measures_of(prompt):
            whole[name][row] += 1
            right[name][row] += good
    return {name: Ratio(right[name], whole[name]) for name in MEASURES}


@dataclass(frozen=True)
class _Groups:
    """Which measures count a prompt."""

    edited: Mapping[KnownFact, int]
    first: Mapping[KnownFact, int]

    @cached_property
    def subjects(self) -> set[str]:
        """The subjects of the edited facts."""
        return {fact.subject for fact in self.edited}

    @cached_property
    def surnames(self) -> set[str]:
        """The last names of the people whose facts are edited."""
        return {_last_name(fact) for fact in self.edited if fact.relation in OF_PEOPLE}

    def measures_of(self, prompt: Prompt) -> list[str]:
        """The measures that count a prompt."""
        fact = prompt.fact
        if fact in self.edited:
            kind = OWN if prompt.first else PARAPHRASES
            return [kind, FIRST] if fact in self.first else [kind]
        if fact.subject in self.subjects:
            return [OTHERS, SUBJECT]
        if fact.relation in OF_PEOPLE and _last_name(fact) in self.surnames:
            return [OTHERS, SURNAME]
        return [OTHERS]


def _last_name(fact: KnownFact) -> str:
    return fact.subject.split()[-1]
