"""Which token of a source stands for which token of a target. Imports no torch."""

from __future__ import annotations

from editspec_compiler.modalities.text_to_image.tokens import EncodedPrompt, PromptError
from editspec_runtime.modalities.text_to_image.compatibility import PromptCompatibility

LAST, CONTENT, ALL, ALIGNED = "last", "content", "all", "aligned"

ARTICLES = {"an": "a"}
"""Words that count as another one in the alignment by words."""

Places = list[tuple[int, int]]
"""Pairs of places: of a token of the target, and of the token of the source whose value it gets."""


def match_tokens(
    target: EncodedPrompt,
    source: EncodedPrompt,
    tokens: str,
    compatibility: PromptCompatibility,
) -> Places:
    """Find the tokens of a target, and the token of the source for each.

    Raises `PromptError` where the prompts cannot be aligned.
    """
    if tokens == ALIGNED or (compatibility.words_aligned and tokens == ALL):
        if compatibility.words_aligned:
            return _align_words(target, source)
        return _align_shared(target, source)
    if tokens in (LAST, ALL) and compatibility.from_last_on:
        count = target.window - max(target.last, source.last)
        return [(target.last + step, source.last + step) for step in range(count)]
    if tokens == LAST:
        return [(target.last, source.last)]
    found = _match_ends(target, source)
    if tokens == ALL:
        found += zip(target.behind, source.behind, strict=False)
    return found


def places_of(prompt: EncodedPrompt, tokens: str, compatibility: PromptCompatibility) -> list[int]:
    """Find the tokens of a prompt by itself, such as one that is preserved."""
    if tokens == LAST:
        return [prompt.last]
    if tokens == CONTENT:
        return list(prompt.content) or [prompt.last]
    del compatibility
    return list(range(prompt.window))


def find_end(prompt: EncodedPrompt, concept: EncodedPrompt) -> int | None:
    """Find the last token of a concept within a prompt; None where the prompt does not hold it."""
    wanted = concept.own[1:-1]
    for start in prompt.content:
        if wanted and prompt.own[start : start + len(wanted)] == wanted:
            return start + len(wanted) - 1
    return None


def _match_ends(target: EncodedPrompt, source: EncodedPrompt) -> Places:
    """Match tokens of the texts from their ends on; the first of the source stands for the rest."""
    found = []
    for place in target.content:
        wanted = source.last - (target.last - place)
        found.append((place, max(wanted, min(1, source.last))))
    return found


def _align_shared(target: EncodedPrompt, source: EncodedPrompt) -> Places:
    """Align the tokens that both prompts have before and behind what differs.

    Of the padding, as much is aligned as both have.
    """
    first, second = target.own, source.own
    shortest = min(len(first), len(second))
    before = 0
    while before < shortest and first[before] == second[before]:
        before += 1
    behind = 0
    while behind < shortest - before and first[-1 - behind] == second[-1 - behind]:
        behind += 1
    # Begin and end are shared by all prompts.
    if max(before - 1, 0) + max(behind - 1, 0) == 0 or not target.content:
        raise PromptError(
            f'The prompts "{target.text}" and "{source.text}" do not align: they share no token at '
            "their beginning or end.",
            "Write the concept into the same sentence in both, or tokens: last.",
        )
    found = [(place, place) for place in range(before)]
    places = zip(
        range(len(first) - behind, target.window),
        range(len(second) - behind, source.window),
        strict=False,
    )
    return [*found, *places]


def _align_words(target: EncodedPrompt, source: EncodedPrompt) -> Places:
    """Align every token of the target with the one of the source that repeats its word.

    The source is the target with words put in. Behind the words, tokens go on together to the end.
    """
    wanted, there = _spell(target), _spell(source)
    found, place = [], 0
    for word in wanted:
        while place < len(there) and there[place] != word:
            place += 1
        if place == len(there):
            raise PromptError(
                f'The prompts "{target.text}" and "{source.text}" do not align: the source is to '
                "be the target with words put in, in the same order.",
                "Write all words of the target into the source, or tokens: last.",
            )
        found.append(place)
        place += 1
    last = source.window - 1
    found += [min(place + step, last) for step in range(target.window - len(found))]
    return list(enumerate(found))


def _spell(prompt: EncodedPrompt) -> list[str]:
    """The words of a prompt, with its begin and its end, as they are compared."""
    return [ARTICLES.get(piece, piece) for piece in prompt.pieces]
