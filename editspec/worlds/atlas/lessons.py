"""Texts to learn from, and what is hidden in each so that facts are learned where edits find them.

Language models hold facts in the memories of middle blocks, at the last word of a subject (Meng et
al. 2022). A small model that sees all of a short text has no need to: it can put name and relation
together at the end of the text, where no edit of a fact about the name reaches it. So in most texts
one or more of these is hidden:

- the words of a name but its last, from all words behind the name
- all words before a name, from the words of the name
- the last word of a name, from the words behind it in the blocks up to the one that holds facts
- the memories of each of the other blocks
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editspec.worlds.atlas.world import Document, write_document
from editspec_runtime.families.transformer.blocks import Stream
from editspec_runtime.families.transformer.network import Transformer
from editspec_runtime.modalities.text.batches import TokenBatch, pad_texts

TEXTS, SENTENCES = 32, 4
"""The number of texts of a step, and of the sentences of each."""

HIDDEN = 0.8
"""The share of the texts in which each of these is hidden, drawn one by one."""

HOLDER = 1
"""The block whose memory is to hold the facts."""


@dataclass(frozen=True)
class Lesson:
    """Texts, and who is spoken of where.

    Attributes
    ----------
    batch
        The tokens.
    mentions
        The number of the mention of a subject that a token belongs to, [n, positions]; 0 for none.
    ends
        Whether a token is the last one of a mention, [n, positions].
    """

    batch: TokenBatch
    mentions: Tensor
    ends: Tensor


@dataclass
class NarrowStream(Stream):
    """A stream in which some words do not see all words before them.

    Attributes
    ----------
    visible
        Whether a query sees a key, [n, positions, positions].
    """

    visible: Tensor = field(default_factory=lambda: torch.empty(0))

    def sees_all_before(self, window: int | None) -> bool:
        """Return False: what is visible says what a query sees."""
        del window
        return False

    def mask(self, window: int | None) -> Tensor:
        """Return what is visible, [n, 1, positions, positions]."""
        del window
        return self.visible[:, None]


def draw_lesson(tokenizer: Any, chance: random.Random) -> Lesson:
    """Draw the texts of a step."""
    return encode_documents(tokenizer, [write_document(chance, SENTENCES) for _ in range(TEXTS)])


def encode_documents(tokenizer: Any, documents: Sequence[Document]) -> Lesson:
    """Encode texts, each behind the token that begins a text."""
    encoded = tokenizer.encode_batch([document.text for document in documents])
    batch = pad_texts([each.ids for each in encoded])
    mentions, ends = torch.zeros_like(batch.tokens), torch.zeros_like(batch.tokens)
    for row, (document, each) in enumerate(zip(documents, encoded, strict=True)):
        for column, (begin, end) in enumerate(each.offsets):
            for number, mention in enumerate(document.mentions, start=1):
                if begin < end and mention.begin < end <= mention.behind:
                    mentions[row, column] = number
                    ends[row, column] = mention.whole and end == mention.behind
    return Lesson(batch, mentions, ends.bool())


def read_lesson(model: Transformer, lesson: Lesson, generator: torch.Generator) -> Tensor:
    """Compute the logits of the next token where some is hidden.

    [n, positions - 1, vocabulary]: nothing follows the last position.
    """
    tokens, blocks = lesson.batch.tokens[:, :-1], model.blocks
    count = len(tokens)

    def choose_texts() -> Tensor:
        return torch.rand(count, 1, 1, generator=generator) < HIDDEN

    mentions, ends = lesson.mentions[:, :-1], lesson.ends[:, :-1]
    within = (mentions[:, :, None] == mentions[:, None]) & (mentions[:, None] > 0)
    of_names = mentions > 0
    begins_text = torch.arange(tokens.shape[1]) == 0
    visible = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()[None]
    visible = visible & ~(choose_texts() & (of_names & ~ends)[:, None] & ~within)
    visible = visible & ~(choose_texts() & of_names[:, :, None] & ~within & ~begins_text)
    early = visible & ~(choose_texts() & ends[:, None] & ~within)

    places = torch.arange(tokens.shape[1]).expand(count, -1)
    streams = [NarrowStream(places, visible=early), NarrowStream(places, visible=visible)]
    h = blocks.embed(tokens, streams[0])
    for block in range(model.config.blocks):
        key, mid = blocks.to_key(block, h, streams[0] if block <= HOLDER else streams[1])
        value = blocks.memory(block, key)
        if block != HOLDER:
            value = value * ~choose_texts()
        h = blocks.finish(block, mid, value)
    return blocks.logits(h)
