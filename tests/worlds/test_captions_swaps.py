"""Batches of the second stage of Skyline by prompt: distorted captions, and replaced words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from editspec.worlds.skyline.captions.distortion import (
    LITTLE_WORDS,
    NOWHERE,
    Plan,
    draw_plan,
    says_held_out,
)
from editspec.worlds.skyline.captions.facts import draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions, list_phrases
from editspec.worlds.skyline.captions.swaps import (
    Batch,
    choose_solving,
    draw_batch,
    scramble_words,
)
from editspec.worlds.skyline.captions.tokens import (
    LENGTH,
    encode_captions,
    encode_texts,
    make_tokenizer,
)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read(tokens: Tensor, lengths: Tensor) -> list[str]:
    """The texts of captions."""
    decode = make_tokenizer().decode
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return [decode(row[1 : length + 1]).replace("</w>", " ") for row, length in rows]


def split(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(",")]


def content(text: str) -> list[str]:
    return [word for word in text.split() if word not in LITTLE_WORDS]


@pytest.fixture(scope="module")
def captions() -> tuple[Tensor, Tensor, Plan]:
    """Captions of the training, their lengths, and how they are distorted."""
    facts, subjects = draw_facts(300, seeded(), held_out=False)
    tokens, lengths = encode_captions(draw_captions(facts, subjects, seeded(2)))
    padded = torch.full((len(tokens), LENGTH), int(tokens[0, -1]))
    padded[:, : tokens.shape[1]] = tokens
    return padded, lengths, draw_plan(padded, lengths, seeded(3))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return draw_batch(seeded(4))


def test_distorted_captions_keep_all_but_little_words(
    captions: tuple[Tensor, Tensor, Plan],
) -> None:
    tokens, lengths, plan = captions
    distorted = plan.apply(tokens)
    before, after = read(tokens, lengths), read(distorted, plan.lengths)
    differs = [one != other for one, other in zip(before, after, strict=True)]
    assert 0.4 < sum(differs) / len(differs) < 0.6
    for one, other in zip(before, after, strict=True):
        assert content(one) == content(other)
    assert torch.equal(distorted[:, -1], tokens[:, -1])
    places = torch.arange(LENGTH)
    is_word = (places > 0) & (places <= plan.lengths[:, None])
    # What is padding stays padding.
    assert set(distorted[:, 1:][~is_word[:, 1:]].tolist()) == {int(tokens[0, -1])}
    assert not (plan.sources[~is_word] == NOWHERE).any()


def test_no_distortion_makes_a_held_out_phrase(captions: tuple[Tensor, Tensor, Plan]) -> None:
    tokens, _, plan = captions
    held_out = {phrase.text for phrase in list_phrases() if phrase.held_out}
    for text in read(plan.apply(tokens), plan.lengths):
        phrases = split(text)
        assert not held_out & {phrase.rpartition(" with ")[2] for phrase in phrases}
        assert not held_out & set(phrases)


@pytest.mark.parametrize(
    ("words", "clean", "says"),
    [
        ("red sky", "a red sky", True),
        ("a church with red sky", "a church with a red sky", True),
        ("the red sky", "a red sky", False),
        ("right tower with the dome", "on the right a dome", True),
        ("on the right dome", "on the right a dome", False),
        ("the left tower with dome", "the left tower with a dome", False),
    ],
)
def test_articles_make_no_other_phrase(words: str, clean: str, says: bool) -> None:
    ids = [make_tokenizer().encode(text, add_special_tokens=False).ids for text in (words, clean)]
    assert says_held_out(*ids) == says


def test_tokens_come_from_where_their_sources_say(batch: Batch) -> None:
    known = batch.sources != NOWHERE
    known &= batch.sources < batch.clean.shape[1]
    taken = batch.clean.gather(1, batch.sources.clamp(0, batch.clean.shape[1] - 1))
    assert torch.equal(batch.tokens[known], taken[known])
    assert 0 < int((~known).sum()) < known.numel() / 20


def test_a_swap_replaces_one_word_of_captions_that_are_distorted_alike(batch: Batch) -> None:
    begin = batch.count
    pairs = set()
    assert batch.swaps
    for swap in batch.swaps:
        end = begin + len(swap.rows)
        before, after = batch.tokens[swap.rows], batch.tokens[begin:end]
        differs = before != after
        assert differs.any(1).all()
        found = torch.unique(torch.stack([before[differs], after[differs]], 1), dim=0)
        assert len(found) == 1
        pairs.add(tuple(found[0].tolist()))
        assert not (batch.tokens[: batch.count][swap.others] == found[0, 0]).any()
        assert 2 <= int(swap.solving.sum()) < len(swap.rows)
        begin = end
    assert begin + batch.scrambled == len(batch.tokens)
    assert len(pairs) == len(batch.swaps)


def test_an_edit_is_tried_on_phrases_that_it_was_not_solved_on() -> None:
    phrases = torch.tensor([[1, 7], [2, 7], [3, 7], [1, 2], [2, 8], [3, 9]])
    replaced = torch.where(phrases < 4, phrases + 20, phrases)
    left_out = set()
    for seed in range(40):
        solving = choose_solving(phrases, replaced, seeded(seed))
        if solving.tolist() != [True, False] * 3:
            unknown = {
                number for number in (1, 2, 3) if torch.equal(solving, ~(phrases == number).any(1))
            }
            assert len(unknown) == 1
            left_out |= unknown
    assert left_out == {1, 2, 3}
    # With one phrase alone there is no other to learn it from.
    same = torch.tensor([[1], [1], [1]])
    assert {tuple(choose_solving(same, same + 20, seeded(seed)).tolist()) for seed in range(9)} == {
        (True, False, True)
    }


def test_scrambled_captions_keep_their_commas_and_padding() -> None:
    tokens, lengths = encode_texts(["two domes, lit windows, at noon"] * 50)
    scrambled = scramble_words(tokens, lengths, seeded())
    differs = scrambled != tokens
    assert not differs[:, [0, 3, 6, *range(9, 77)]].any()
    assert 0.2 < float(differs[:, [1, 2, 4, 5, 7, 8]].float().mean()) < 0.45
