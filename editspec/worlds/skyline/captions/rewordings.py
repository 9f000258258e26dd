"""Edits of concepts with a known perfect edit: what becomes of captions, facts and pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.evaluate import Captions, draw_unseen
from editspec.worlds.skyline.captions.facts import COLUMN, render_facts
from editspec.worlds.skyline.reader import Reader
from editspec.worlds.skyline.world import find_changed_pixels


@dataclass(frozen=True)
class Rewording:
    """A change of what a word means.

    Attributes
    ----------
    words
        Words of captions, each with the one that says what they are to mean; none where the word is
        to mean nothing.
    names
        The attributes of `FACTS` that the words are about.
    old, new
        The value of these attributes that goes, and the one that comes.
    """

    words: dict[str, str]
    names: tuple[str, ...]
    old: int
    new: int

    def find_concerned(self, captions: Captions) -> Tensor:
        """Find which attributes `names` of captions the words decide, [n, names] truth values."""
        said = torch.stack([captions.mentioned[name] for name in self.names], 1)
        return said & (captions.facts[:, self.columns] == self.old)

    @property
    def columns(self) -> list[int]:
        """The columns of `names` in a row of facts."""
        return [COLUMN[name] for name in self.names]

    def change_facts(self, facts: Tensor) -> Tensor:
        """Return rows of facts [n, 13] after a perfect edit."""
        changed = facts.clone()
        for column in self.columns:
            changed[:, column] = torch.where(
                facts[:, column] == self.old, self.new, facts[:, column]
            )
        return changed

    def change_text(self, text: str) -> str:
        """Return the caption that says what `text` is to mean after a perfect edit."""
        clauses = [self._change_clause(clause) for clause in text.split(", ")]
        return ", ".join(clause for clause in clauses if clause)

    def _change_clause(self, clause: str) -> str:
        words = clause.split()
        if any(self.words.get(word) == "" for word in words):
            return ""
        return " ".join(self.words.get(word, word) for word in words)


REWORDINGS = {
    "dome-to-spire": Rewording(
        {"dome": "spire", "domes": "spires"}, ("left_top", "right_top"), 0, 1
    ),
    "no-watermark": Rewording({"watermark": ""}, ("middle_watermark",), 1, 0),
}
"""The edits of the bench, by their names."""


@dataclass(frozen=True)
class Scores:
    """How an edit's pictures compare with those before it, and with the perfect edit's.

    Attributes
    ----------
    read
        Of the pictures whose caption has the old word, the share in which the judge reads the new
        value wherever the caption has it.
    paraphrased
        The same share of the captions in phrases that no training has seen.
    kept
        Of all other attributes that these captions mention, the share that is read as mentioned.
    recovered
        1 - |y - x*| / |x - x*|, summed over the pixels that the perfect edit changes: x, y before
        and after the edit, x* the rendered picture of the perfect one. Of captions that say all.
    elsewhere
        The mean change of pictures whose caption does not have the word, as a share of that of the
        others; 0 where no picture changes.
    """

    read: float
    paraphrased: float
    kept: float
    recovered: float
    elsewhere: float

    def to_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Questions:
    """The captions that an edit is asked about.

    Attributes
    ----------
    rewording
        The edit.
    concerned
        Captions with the old word; the second half in phrases that no training has seen.
    others
        Captions without it.
    """

    rewording: Rewording
    concerned: Captions
    others: Captions

    @property
    def texts(self) -> list[str]:
        """All captions, the concerned ones first."""
        return [*self.concerned.texts, *self.others.texts]

    @cached_property
    def wanted(self) -> Tensor:
        """The rendered pictures [n, 3, 64, 64] of the concerned captions after a perfect edit."""
        return render_facts(self.rewording.change_facts(self.concerned.facts))

    @cached_property
    def changed(self) -> Tensor:
        """The pixels [n, 1, 64, 64] that a perfect edit changes in them."""
        return find_changed_pixels(render_facts(self.concerned.facts), self.wanted)[:, None]


def ask(rewording: Rewording, count: int, seed: int) -> Questions:
    """Draw `count` unseen captions that a rewording concerns, and half as many that it does not."""
    concerned, others = [], []
    for held_out in (False, True):
        drawn = draw_unseen(40 * count, seed, held_out=held_out, whole=True)
        has = rewording.find_concerned(drawn).any(1)
        concerned.append(drawn[has.nonzero()[: count // 2, 0]])
        others.append(drawn[(~has).nonzero()[: count // 4, 0]])
    return Questions(rewording, concerned[0] + concerned[1], others[0] + others[1])


def score(questions: Questions, before: Tensor, after: Tensor, judge: Reader) -> Scores:
    """Score pictures [n, 3, 64, 64] of `questions.texts`, before and after an edit."""
    rewording = questions.rewording
    captions = questions.concerned
    count = len(captions)
    read = judge.read(after[:count])
    concerned = rewording.find_concerned(captions)
    turned = torch.stack([read[name] == rewording.new for name in rewording.names], 1)
    kept, mentions = 0, 0
    for name, column in COLUMN.items():
        said = captions.mentioned[name].clone()
        if name in rewording.names:
            said &= ~concerned[:, rewording.names.index(name)]
        kept += int((read[name] == captions.facts[:, column])[said].sum())
        mentions += int(said.sum())
    where, wanted = questions.changed, questions.wanted
    left = ((after[:count] - wanted).abs() * where).sum()
    lacking = ((before[:count] - wanted).abs() * where).sum()
    change = (after - before).abs().flatten(1).mean(1)
    here, there = float(change[:count].mean()), float(change[count:].mean())
    right = (turned | ~concerned).all(1).float()
    return Scores(
        read=float(right.mean()),
        paraphrased=float(right[count // 2 :].mean()),
        kept=kept / mentions,
        recovered=float(1 - left / lacking),
        elsewhere=there / here if here else 0.0,
    )
