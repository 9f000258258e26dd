"""Batches of the second stage of the training: captions, and words that are replaced in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.distortion import Plan, are_distinct, draw_plan
from editspec.worlds.skyline.captions.examples import list_words
from editspec.worlds.skyline.captions.facts import draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions
from editspec.worlds.skyline.captions.substitutions import list_substitutions, make_table
from editspec.worlds.skyline.captions.tokens import LENGTH, SUFFIX, encode_captions, token_number

CAPTIONS = 64
"""Captions of a step, besides those in which a word is replaced."""

EDITS = 4
"""Words that are edited in a step."""

SCRAMBLED = 16
"""Captions of a step that are read once more, with any words in the place of some of theirs.

Nothing is asked of these but which words they have.
"""

FEWEST, MOST = 6, 16
"""Captions with the word that an edit needs at least, and has at most."""


@dataclass(frozen=True)
class Swap:
    """A word of a batch that is replaced.

    Attributes
    ----------
    rows
        The captions in which it is, numbers [m].
    others
        The captions without it, truth values [n].
    solving
        The rows on which the edit is solved, truth values [m].
    """

    rows: Tensor
    others: Tensor
    solving: Tensor


@dataclass(frozen=True)
class Batch:
    """Captions, and captions with one word replaced.

    Attributes
    ----------
    count
        Captions before those of the first swap.
    swaps
        The words that are replaced. Their captions, with the word replaced, follow in order.
    scrambled
        Captions with any words in the place of some, at last.
    tokens, lengths
        Of all captions, [n, places] and [n].
    clean, clean_lengths
        The same before they were distorted.
    sources
        The place in `clean` of each token, [n, places]; `NOWHERE` where it was put in.
    """

    count: int
    swaps: Sequence[Swap]
    scrambled: int
    tokens: Tensor
    lengths: Tensor
    clean: Tensor
    clean_lengths: Tensor
    sources: Tensor


def draw_batch(generator: torch.Generator) -> Batch:
    """Draw captions, and words of them that are replaced by others of the same topic."""
    facts, subjects = draw_facts(CAPTIONS, generator, held_out=False)
    captions = draw_captions(facts, subjects, generator)
    tokens, lengths = encode_captions(captions)
    plan = draw_plan(tokens, lengths, generator)
    swaps, changed = _draw_swaps(captions, lengths, plan, generator)
    few = slice(0, SCRAMBLED)
    scrambled = scramble_words(tokens[few], lengths[few], generator)
    rows = torch.cat([torch.arange(CAPTIONS), *(swap.rows for swap in swaps)])
    used = plan[rows]
    clean = torch.cat([tokens, *changed])
    lengths_before = torch.cat([lengths[rows], lengths[few]])
    lengths_after = torch.cat([used.lengths, lengths[few]])
    # Padding costs as much time as words, so that most of it is read in every fourth step alone.
    whole = float(torch.rand((), generator=generator)) < 0.25
    longest = int(torch.maximum(lengths_before, lengths_after).max())
    some = slice(0, LENGTH if whole else longest + 2)
    straight = torch.arange(LENGTH).expand_as(scrambled)
    return Batch(
        CAPTIONS,
        swaps,
        len(scrambled),
        torch.cat([used.apply(clean), scrambled])[:, some],
        lengths_after,
        torch.cat([clean, scrambled])[:, some],
        lengths_before,
        torch.cat([used.sources, straight])[:, some],
    )


def _draw_swaps(
    captions: Tensor, lengths: Tensor, plan: Plan, generator: torch.Generator
) -> tuple[list[Swap], list[Tensor]]:
    """Draw words that are replaced, and the tokens of the captions with each replaced."""
    substitutions = list_substitutions()
    swaps: list[Swap] = []
    changed: list[Tensor] = []
    for number in torch.randperm(len(substitutions), generator=generator).tolist():
        replaced = make_table(*substitutions[number])[captions]
        has_word = (replaced != captions).any(1)
        rows = (has_word & (replaced >= 0).all(1)).nonzero()[:MOST, 0]
        if len(rows) < FEWEST:
            continue
        tokens, _ = encode_captions(replaced[rows])
        own = plan[rows]
        fits = are_distinct(own.apply(tokens), own.lengths, tokens, lengths[rows])
        rows = rows[fits]
        if len(rows) < FEWEST:
            continue
        solving = choose_solving(captions[rows], replaced[rows], generator)
        swaps.append(Swap(rows, ~has_word, solving))
        changed.append(tokens[fits])
        if len(swaps) == EDITS:
            break
    return swaps, changed


def choose_solving(captions: Tensor, replaced: Tensor, generator: torch.Generator) -> Tensor:
    """Choose on which captions [m, topics] an edit is solved, [m] truth values.

    It must hold in the others, too. In half of the cases these are all that have one of the phrases
    with the word, so that what is learned in some phrases holds in another.
    """
    alternate = torch.arange(len(captions)) % 2 == 0
    if float(torch.rand((), generator=generator)) < 0.5:
        return alternate
    differs = captions != replaced
    phrases = torch.unique(captions[differs])
    left_out = phrases[torch.randint(len(phrases), (), generator=generator)]
    solving = ~((captions == left_out) & differs).any(1)
    return solving if 2 <= int(solving.sum()) < len(captions) else alternate


def scramble_words(tokens: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Put any words of the grammar in the place of a third of the words of captions [n, 77]."""
    places = torch.arange(tokens.shape[1])
    is_word = (places > 0) & (places <= lengths[:, None])
    is_word &= tokens != token_number("," + SUFFIX)
    words = list_words()
    others = words[torch.randint(len(words), tokens.shape, generator=generator)]
    chosen = torch.rand(tokens.shape, generator=generator) < 1 / 3
    return torch.where(is_word & chosen, others, tokens)
