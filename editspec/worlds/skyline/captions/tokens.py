"""The tokenizer of captions: CLIP's, with a vocabulary in which every word is one token."""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.grammar import list_phrases
from editspec_runtime.io.extra_registry import load_extra

LENGTH = 77
"""Tokens of a caption with its padding, as in Stable Diffusion."""

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"

_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@functools.cache
def make_tokenizer() -> Any:
    """Make the tokenizer: bytes, and merges that make every word of the grammar one token."""
    tokenizers = _load_tokenizers()
    words = sorted({word for phrase in list_phrases() for word in phrase.text.split()})
    merges = _learn_merges(words)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + SUFFIX for letter in letters)]
    tokens += [first + second for first, second in merges]
    tokens += [BEGIN, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    model = tokenizers.models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix=SUFFIX)
    tokenizer = tokenizers.Tokenizer(model)
    normalizers = tokenizers.normalizers
    one_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), one_space, normalizers.Lowercase()]
    )
    splitters = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = splitters.Sequence(
        [
            splitters.Split(tokenizers.Regex(_PIECES), "removed", invert=True),
            splitters.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    ends = (END, vocabulary[END]), (BEGIN, vocabulary[BEGIN])
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        *ends, trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer


def token_number(token: str) -> int:
    """Return the number of a token of the vocabulary."""
    numbers: dict[str, int] = make_tokenizer().get_vocab()
    return numbers[token]


def _load_tokenizers() -> Any:
    return load_extra("diffusion", package="tokenizers")


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Learn merges until every word is one token."""
    tokenizers = _load_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix=SUFFIX))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        end_of_word_suffix=SUFFIX,
        show_progress=False,
        # Merges of equal counts come in the order of their tokens' numbers. Last letters would be
        # numbered at random, as the library reads words in the order of its hashes.
        special_tokens=sorted({word[-1] + SUFFIX for word in words}),
    )
    tokenizer.train_from_iterator(words, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges]


def encode_texts(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Encode captions, [n, 77], and count the tokens of each without begin and end, [n].

    A caption that is too long loses its end.
    """
    tokenizer = make_tokenizer()
    rows = torch.full((len(texts), LENGTH), token_number(END))
    rows[:, 0] = token_number(BEGIN)
    lengths = torch.zeros(len(texts), dtype=torch.long)
    for row, encoding in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
        ids = encoding.ids[: LENGTH - 2]
        rows[row, 1 : len(ids) + 1] = torch.tensor(ids, dtype=torch.long)
        lengths[row] = len(ids)
    return rows, lengths


@functools.cache
def _phrase_tokens() -> Tensor:
    """Encode every phrase with the comma that follows it, [phrases, longest]; -1 is no token."""
    tokenizer = make_tokenizer()
    encoded = []
    for phrase in list_phrases():
        comma = "" if not phrase.text or phrase.text.endswith(" with") else ","
        encoded.append(tokenizer.encode(phrase.text + comma, add_special_tokens=False).ids)
    table = torch.full((len(encoded), max(map(len, encoded))), -1)
    for row, ids in enumerate(encoded):
        table[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return table


def encode_captions(captions: Tensor) -> tuple[Tensor, Tensor]:
    """Encode captions [n, topics] as `encode_texts` encodes their texts, on their device."""
    device = captions.device
    tokens = _phrase_tokens().to(device)[captions].flatten(1)
    there = tokens >= 0
    # Stable, so that tokens stay in their order where blanks between them are taken out.
    order = (~there).long().argsort(dim=1, stable=True)[:, : LENGTH - 1]
    # The comma after the last phrase goes.
    lengths = (there.sum(1) - 1).clamp(0, LENGTH - 2)
    tokens = tokens.gather(1, order)
    places = torch.arange(tokens.shape[1], device=device)
    tokens = torch.where(places < lengths[:, None], tokens, token_number(END))
    begin = torch.full_like(tokens[:, :1], token_number(BEGIN))
    return torch.cat([begin, tokens], 1), lengths
