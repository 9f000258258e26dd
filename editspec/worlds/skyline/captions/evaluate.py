"""Evaluation of Skyline by prompt: ``python -m editspec.worlds.skyline.captions.evaluate``.

Pictures of captions that no training has seen are read by the judge: of the attributes that a
caption mentions, how many are drawn as it says?
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.facts import COLUMN, draw_facts
from editspec.worlds.skyline.captions.grammar import draw_captions, find_mentioned, write_captions
from editspec.worlds.skyline.reader import Reader

WATERMARKS = ("middle_watermark", "bottom_watermark")


@dataclass(frozen=True)
class Captions:
    """Captions with what they say.

    Attributes
    ----------
    texts
        The captions.
    facts
        [n, 13], of which only what is mentioned must be drawn.
    mentioned
        The truth values [n] of each attribute. A watermark that nobody mentions is absent.
    """

    texts: list[str]
    facts: Tensor
    mentioned: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, items: Tensor) -> Captions:
        """Return the captions of numbers [m]."""
        texts = [self.texts[item] for item in items.tolist()]
        mentioned = {name: said[items] for name, said in self.mentioned.items()}
        return Captions(texts, self.facts[items], mentioned)

    def __add__(self, more: Captions) -> Captions:
        mentioned = {
            name: torch.cat([said, more.mentioned[name]]) for name, said in self.mentioned.items()
        }
        return Captions(self.texts + more.texts, torch.cat([self.facts, more.facts]), mentioned)


def draw_unseen(count: int, seed: int, *, held_out: bool = False, whole: bool = False) -> Captions:
    """Draw captions of scenes that no training has seen.

    Parameters
    ----------
    count, seed
        How many, and what draws them.
    held_out
        Whether in phrases that no training has seen, either.
    whole
        Whether every topic is mentioned.
    """
    generator = torch.Generator().manual_seed(seed)
    facts, subjects = draw_facts(count, generator, held_out=True)
    captions = draw_captions(facts, subjects, generator, held_out=held_out, whole=whole)
    mentioned = find_mentioned(captions)
    everywhere = torch.ones(count, dtype=torch.bool)
    mentioned |= dict.fromkeys(WATERMARKS, everywhere)
    return Captions(write_captions(captions), facts, mentioned)


def read_correctly(judge: Reader, pictures: Tensor, captions: Captions) -> dict[str, float]:
    """Read the shares of mentioned attributes that are drawn as captions say.

    ``all`` is the share of all mentions, ``captions`` that of captions without any mistake.
    """
    read = judge.read(pictures)
    shares: dict[str, float] = {}
    right_sum, mentions, flawless = 0, 0, torch.ones(len(captions), dtype=torch.bool)
    for name, column in COLUMN.items():
        said = captions.mentioned[name]
        right = read[name] == captions.facts[:, column]
        shares[name] = float(right[said].float().mean())
        right_sum += int(right[said].sum())
        mentions += int(said.sum())
        flawless &= right | ~said
    shares["all"] = right_sum / mentions
    shares["captions"] = float(flawless.float().mean())
    return shares
