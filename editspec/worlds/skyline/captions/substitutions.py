"""Words that another word can replace: what an edit of a word is to do to captions."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.grammar import Phrase, list_phrases


@functools.cache
def list_substitutions() -> tuple[tuple[str, str], ...]:
    """List pairs of words of which the second, put for the first, makes a phrase of that topic.

    Phrases that no training sees do not count.
    """
    numbers = _number_phrases()
    pairs: dict[tuple[str, str], None] = {}
    for (topic, text), number in numbers.items():
        words = text.split()
        for (other_topic, other_text), other_number in numbers.items():
            others = other_text.split()
            if topic != other_topic or number == other_number or len(words) != len(others):
                continue
            differing = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
            if len(differing) == 1:
                pairs[differing[0]] = None
    return tuple(pairs)


@functools.cache
def make_table(word: str, other: str) -> Tensor:
    """Make the table [phrases] of the phrase that each becomes where `other` is put for `word`.

    A phrase without the word stays; -1 where what it becomes is in no training.
    """
    numbers = _number_phrases()
    table = torch.arange(len(list_phrases()))
    for number, phrase in enumerate(list_phrases()):
        if word in phrase.text.split():
            words = [other if each == word else each for each in phrase.text.split()]
            table[number] = numbers.get((phrase.topic, " ".join(words)), -1)
    return table


def _number_phrases() -> dict[tuple[str, str], int]:
    """Number the phrases of the training by their topics and texts."""
    return {
        (phrase.topic, phrase.text): number
        for number, phrase in enumerate(list_phrases())
        if _is_seen(phrase)
    }


def _is_seen(phrase: Phrase) -> bool:
    return bool(phrase.text) and not phrase.held_out
