"""Examples of the training of Skyline by prompt: captions, and what is drawn by chance of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.facts import draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions, find_mentioned, list_phrases
from editspec.worlds.skyline.captions.tokens import (
    LENGTH,
    SUFFIX,
    encode_captions,
    token_number,
)

AHEAD = 64
"""Batches whose captions are drawn at once."""

EMPTY = 0.1
"""The share of captions that are left out."""

MIXED = 0.5
"""The share of captions whose padding is that of another one."""

TIMES = 1000
"""Levels of noise."""


@dataclass(frozen=True)
class Examples:
    """Captions and what they say.

    Attributes
    ----------
    facts, mentioned
        [n, 13], and whether the caption says them.
    tokens, lengths
        [n, 77], and how many of them are words [n].
    mixed
        Whether the padding is that of another caption, [n] truth values.
    times
        The level of noise of each, [n], 0 to `TIMES` - 1.
    reworded, outside
        The tokens with another word in the place of one of them, [n, 77], and which tokens stand
        after that word's phrase, [n, 77] truth values.
    """

    facts: Tensor
    mentioned: Tensor
    tokens: Tensor
    lengths: Tensor
    mixed: Tensor
    times: Tensor
    reworded: Tensor
    outside: Tensor

    def __getitem__(self, items: Tensor) -> Examples:
        """Return the examples of numbers [m]."""
        return Examples(**{name: tensor[items] for name, tensor in vars(self).items()})


def draw_examples(batch: int, generator: torch.Generator, ahead: int = AHEAD) -> Iterator[Examples]:
    """Draw batches of examples for ever.

    They are drawn `ahead` batches at a time, as many small steps take long on a graphics card.
    """
    device = generator.device
    count = batch * ahead
    while True:
        facts, subjects = draw_facts(count, generator, held_out=False)
        captions = draw_captions(facts, subjects, generator)
        tokens, lengths = encode_captions(captions)
        empty = torch.rand(count, generator=generator, device=device) < EMPTY
        lengths = torch.where(empty, 0, lengths)
        # The last token of a caption with its padding is the end of text, wherever captions end.
        tokens[:, 1:] = torch.where(empty[:, None], tokens[:, -1:], tokens[:, 1:])
        mixed = torch.rand(count, generator=generator, device=device) < MIXED
        # In the batch, the times are spread evenly: a batch without noisy pictures says little.
        places = torch.arange(batch, device=device).repeat(ahead)
        shares = (places + torch.rand(count, generator=generator, device=device)) / batch
        examples = Examples(
            facts,
            torch.stack(list(find_mentioned(captions).values()), 1) & ~empty[:, None],
            tokens,
            lengths,
            mixed,
            ((1 - shares.square()) * TIMES).long().clamp(max=TIMES - 1),
            *reword(tokens, lengths, generator),
        )
        for some in torch.split(torch.arange(count, device=device), batch):
            yield examples[some]


def reword(tokens: Tensor, lengths: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put any word of the grammar in the place of any word of captions [n, 77].

    Returns the tokens, and which of them stand after the phrase of that word, with the comma that
    ends it: [n, 77] truth values. A comma is no word, and stays.
    """
    count, device = len(tokens), tokens.device
    comma = token_number("," + SUFFIX)
    places = torch.arange(LENGTH, device=device)
    drawn = torch.rand(count, generator=generator, device=device)
    at = (1 + drawn * lengths).long().clamp(max=LENGTH - 1)[:, None]
    words = list_words().to(device)
    numbers = torch.randint(len(words), (count,), generator=generator, device=device)
    is_word = tokens.gather(1, at)[:, 0].ne(comma) & (lengths > 0)
    reworded = torch.where((places == at) & is_word[:, None], words[numbers][:, None], tokens)
    ends = (tokens == comma) & (places >= at)
    # The first comma from there on; without one the phrase ends with the caption.
    end = torch.where(ends.any(1), ends.long().argmax(1), lengths)
    return reworded, (places > end[:, None]) & is_word[:, None]


@functools.cache
def list_words() -> Tensor:
    """Return the tokens of the words of all phrases, [words]."""
    words = sorted({word for phrase in list_phrases() for word in phrase.text.split()})
    return torch.tensor([token_number(word + SUFFIX) for word in words])
