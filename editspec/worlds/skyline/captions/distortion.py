"""Captions in words that no grammar has: little words are left out, put in, or replaced.

What a phrase means rests on few of its words. Where the others vary, a text encoder learns to rely
on these few, so that it understands phrases in another form. A held-out phrase never comes up.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.grammar import list_phrases
from editspec.worlds.skyline.captions.tokens import LENGTH, SUFFIX, token_number

LITTLE_WORDS = ("a", "the", "on", "of", "with", "in", "at", "tower", "towers")
"""Words that can be missing without a loss of meaning."""

_ARTICLES = ("a", "the")

JOINT = "with"
"""The word between a subject and a phrase."""

DISTORTED = 0.5
"""The share of captions that are distorted."""

REPLACED, OMITTED, INSERTED = 0.25, 0.15, 0.1
"""The shares of little words that are replaced or left out, and of words with one put after."""

NOWHERE = -1


@dataclass(frozen=True)
class Plan:
    """How captions are distorted.

    Attributes
    ----------
    sources
        The place in the caption that each place of the distorted one is taken from,
        [n, places]; `NOWHERE` where a little word is put in.
    little
        The tokens of these little words, [n, places].
    lengths
        The words of the distorted captions, [n].
    """

    sources: Tensor
    little: Tensor
    lengths: Tensor

    def __getitem__(self, rows: Tensor) -> Plan:
        """Return the plan of captions `rows` [m]."""
        return Plan(self.sources[rows], self.little[rows], self.lengths[rows])

    def apply(self, tokens: Tensor) -> Tensor:
        """Distort captions of tokens [n, places]."""
        taken = tokens.gather(1, self.sources.clamp(min=0))
        return torch.where(self.sources == NOWHERE, self.little, taken)


class Piece(NamedTuple):
    """A word of a distorted caption: the place that it comes from, or the token that is put in."""

    source: int
    little: int = 0


def draw_plan(tokens: Tensor, lengths: Tensor, generator: torch.Generator) -> Plan:
    """Draw how captions [n, 77] of `lengths` [n] words are distorted."""
    count = len(tokens)
    little = torch.tensor([token_number(word + SUFFIX) for word in LITTLE_WORDS])
    chances = torch.rand(count, LENGTH, 2, generator=generator)
    chances[torch.rand(count, generator=generator) >= DISTORTED] = 1.0
    others = little[torch.randint(len(little), (count, LENGTH, 2), generator=generator)]
    chosen = torch.where(torch.isin(tokens, little), chances[..., 0], 1.0)
    drawn: list[list[Piece]] = []
    for row, length in enumerate(lengths.tolist()):
        words = slice(1, length + 1)
        change = torch.stack([chosen[row, words], chances[row, words, 1]], 1)
        pieces = _distort_caption(
            tokens[row, words].tolist(), change.tolist(), others[row, words].tolist()
        )
        fits = len(pieces) <= LENGTH - 2
        drawn.append(pieces if fits else [Piece(place) for place in range(1, length + 1)])
    return _make_plan(drawn, lengths)


def _make_plan(captions: list[list[Piece]], before: Tensor) -> Plan:
    lengths = torch.tensor([len(pieces) for pieces in captions])
    # What comes after the words of a caption comes after those of the distorted one.
    moved = torch.arange(LENGTH) + (before - lengths)[:, None]
    sources = moved.clamp(max=LENGTH - 1)
    little = torch.zeros_like(sources)
    # The begin of the text, and its end in the last place, stay where they are.
    sources[:, 0], sources[:, -1] = 0, LENGTH - 1
    for row, pieces in enumerate(captions):
        words = slice(1, len(pieces) + 1)
        sources[row, words] = torch.tensor([piece.source for piece in pieces], dtype=torch.long)
        little[row, words] = torch.tensor([piece.little for piece in pieces], dtype=torch.long)
    return Plan(sources, little, lengths)


def _distort_caption(
    words: list[int], chances: list[list[float]], others: list[list[int]]
) -> list[Piece]:
    """Distort each phrase of a caption of tokens, but none into what is held out.

    Of each word there are two chances, of a change and of an insertion, and the token for either.
    """
    found: list[Piece] = []
    for phrase in _find_phrases(words):
        pieces: list[Piece] = []
        for place in phrase:
            pieces += _distort_word(place, words[place] == _comma(), chances[place], others[place])
        distorted = [piece.little or words[piece.source - 1] for piece in pieces]
        if says_held_out(distorted, words[phrase.start : phrase.stop]):
            pieces = [Piece(place + 1) for place in phrase]
        found += pieces
    return found


def _distort_word(
    place: int, is_comma: bool, chances: list[float], others: list[int]
) -> list[Piece]:
    change, insertion = chances
    pieces = []
    if change < REPLACED:
        pieces.append(Piece(NOWHERE, others[0]))
    elif change >= REPLACED + OMITTED:
        pieces.append(Piece(place + 1))
    if insertion < INSERTED and not is_comma:
        pieces.append(Piece(NOWHERE, others[1]))
    return pieces


def _find_phrases(words: list[int]) -> list[range]:
    """Find the places of each phrase, with the comma that ends it."""
    ends = [place + 1 for place, word in enumerate(words) if word == _comma()]
    return [range(begin, end) for begin, end in pairwise([0, *ends, len(words)])]


def says_held_out(words: list[int], clean: list[int]) -> bool:
    """Tell whether a phrase of tokens is a held-out one, or contains one that `clean` does not.

    Articles do not count, or the phrases would be as good as seen.
    """
    text, before = _write(words), _write(clean)
    whole, parts = _list_held_out()
    # "A church with a red sky" is a subject and a phrase.
    if text.rpartition(f" {JOINT} ")[2] in whole or text in whole:
        return True
    stripped, stripped_before = f" {_strip(text)} ", f" {_strip(before)} "
    return any(f" {part} " in stripped and f" {part} " not in stripped_before for part in parts)


def are_distinct(tokens: Tensor, lengths: Tensor, clean: Tensor, clean_lengths: Tensor) -> Tensor:
    """Tell which captions [n, places] say no held-out phrase that `clean` does not, [n]."""
    fits = []
    for row, length, other, other_length in zip(
        tokens.tolist(), lengths.tolist(), clean.tolist(), clean_lengths.tolist(), strict=True
    ):
        pairs = zip(_split(row[1 : length + 1]), _split(other[1 : other_length + 1]), strict=True)
        fits.append(not any(says_held_out(*pair) for pair in pairs))
    return torch.tensor(fits, dtype=torch.bool)


def _split(words: list[int]) -> list[list[int]]:
    return [words[phrase.start : phrase.stop] for phrase in _find_phrases(words)]


def _write(words: list[int]) -> str:
    names = _name_tokens()
    return " ".join(names[word] for word in words if word != _comma())


def _strip(text: str) -> str:
    return " ".join(word for word in text.split() if word not in _ARTICLES)


@functools.cache
def _list_held_out() -> tuple[frozenset[str], tuple[str, ...]]:
    texts = [phrase.text for phrase in list_phrases() if phrase.held_out]
    return frozenset(texts), tuple(dict.fromkeys(_strip(text) for text in texts))


@functools.cache
def _name_tokens() -> dict[int, str]:
    words = {word for phrase in list_phrases() for word in phrase.text.split()}
    return {token_number(word + SUFFIX): word for word in sorted(words)}


@functools.cache
def _comma() -> int:
    return token_number("," + SUFFIX)
