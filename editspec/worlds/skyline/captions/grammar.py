"""The grammar of captions: topics, what can be said of each, and phrases that say it.

A caption is the phrases of some topics in any order, parted by commas: ``two domes, lit windows, a
red sky``. Every topic has situations, numbered as its facts are, and every situation has phrases.
Some phrases are held out: no training has seen these, but all of their words, and the same form of
other situations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from editspec.worlds.skyline.captions.facts import COLUMN, SUBJECTS
from editspec.worlds.skyline.world import TOPS

SIDES = ("left", "right")


@dataclass(frozen=True)
class Said:
    """The phrases of a situation; no training sees those of `held_out`."""

    phrases: tuple[str, ...]
    held_out: tuple[str, ...] = ()


def _subject(name: str) -> Said:
    return Said((f"a {name}", f"the {name}"), (f"a picture of a {name}",))


def _pair(tops: str) -> Said:
    phrases = [f"two {tops}", f"twin {tops}", f"{tops} on both towers", f"a pair of {tops}"]
    return _hold_out(phrases, tops)


def _tower(side: str, top: str) -> Said:
    tops = top if top.startswith("battlements") else f"a {top}"
    phrases = [
        f"{tops} on the {side}",
        f"{tops} on the {side} tower",
        f"on the {side} {tops}",
        f"the {side} tower with {tops}",
    ]
    return _hold_out(phrases, side + top)


def _hold_out(phrases: list[str], key: str) -> Said:
    """Hold out one form, another one for each key, so that each form is learned somewhere."""
    forms = {
        "domes": 3,
        "spires": 2,
        "battlements": 1,
        "leftdome": 1,
        "rightdome": 3,
        "leftspire": 2,
        "rightspire": 1,
        "leftbattlements": 3,
        "rightbattlements": 2,
    }
    form = forms[key]
    return Said(tuple(phrases[:form] + phrases[form + 1 :]), (phrases[form],))


def _sited(what: str, site: str) -> Said:
    return Said((f"{what} on the {site}", f"on the {site} {what}"))


_PLURALS = ("domes", "spires", "battlements")

TOPICS: dict[str, tuple[Said, ...]] = {
    "subject": (
        *(_subject(name) for name in SUBJECTS[:1]),
        *(Said((f"a {name}", f"the {name}", f"a picture of a {name}")) for name in SUBJECTS[1:3]),
    ),
    "tops": tuple(_pair(tops) for tops in _PLURALS),
    **{f"{side}_top": tuple(_tower(side, top) for top in TOPS[:3]) for side in SIDES},
    "windows_lit": (
        Said(("dark windows", "unlit windows", "no light in the windows"), ("the windows dark",)),
        Said(("lit windows", "bright windows", "light in the windows", "the windows lit")),
    ),
    "sky": (
        Said(("a red sky", "the sky at dawn", "at dawn"), ("red sky",)),
        Said(("a blue sky", "the sky at noon", "at noon", "blue sky")),
    ),
    "sun_site": (
        _sited("the sun", "left"),
        Said(("the sun in the middle", "in the middle the sun")),
        _sited("the sun", "right"),
    ),
    "ground": (
        Said(("in autumn", "a brown meadow", "autumn"), ("a meadow in autumn",)),
        Said(("in spring", "a green meadow", "spring", "a meadow in spring")),
    ),
    "wall": (
        Said(("sandstone walls", "yellow walls", "walls of sandstone")),
        Said(("slate walls", "grey walls"), ("walls of slate",)),
    ),
    "roof": (
        Said(("copper roofs", "green roofs", "roofs of copper")),
        Said(("brick roofs", "red roofs"), ("roofs of brick",)),
    ),
    "trees": (
        Said(("no trees", "without trees")),
        _sited("a tree", "left"),
        _sited("a tree", "right"),
        Said(("two trees", "trees on both sides"), ("a pair of trees",)),
    ),
    "people": (
        Said(("no people", "without people")),
        Said(("people on the left", "two people on the left"), ("on the left people",)),
        Said(("people on the right", "on the right people"), ("two people on the right",)),
    ),
    "middle_watermark": (
        Said(("a watermark", "a white watermark", "the watermark"), ("with a watermark",)),
    ),
    "bottom_watermark": (
        Said(("a signature", "a white signature", "the signature", "with a signature")),
    ),
}
"""The phrases of every situation of every topic."""

MENTIONED = {"subject": 0.8, "tops": 0.95, "left_top": 0.95, "right_top": 0.95, "windows_lit": 0.8}
"""How often a topic is mentioned.

A watermark always is. The others are in 30 % to all of the captions, one share for each caption.
"""

DECIDES = {
    "tops": ("left_top", "right_top"),
    "left_top": ("left_top",),
    "right_top": ("right_top",),
    "trees": ("left_tree", "right_tree"),
    **{
        name: (name,)
        for name in ("windows_lit", "sky", "sun_site", "ground", "wall", "roof", "people")
    },
    "middle_watermark": ("middle_watermark",),
    "bottom_watermark": ("bottom_watermark",),
}
"""The attributes of `FACTS` that the mention of a topic decides."""

_NOT_AFTER_WITH = ("at ", "in ", "on the ", "without ", "with ")
_ALWAYS = ("middle_watermark", "bottom_watermark")


@dataclass(frozen=True)
class Phrase:
    """A phrase, and the topic and the situation that it is of."""

    text: str
    topic: str
    situation: int
    held_out: bool


@functools.cache
def list_phrases() -> tuple[Phrase, ...]:
    """List all phrases; the first one is empty.

    The subjects are there once more at last, followed by ``with``.
    """
    phrases = [Phrase("", "", 0, False)]
    for topic, situations in TOPICS.items():
        for situation, said in enumerate(situations):
            phrases += [Phrase(text, topic, situation, False) for text in said.phrases]
            phrases += [Phrase(text, topic, situation, True) for text in said.held_out]
    subjects = [phrase for phrase in phrases if phrase.topic == "subject"]
    phrases += [
        Phrase(f"{phrase.text} with", "subject", phrase.situation, phrase.held_out)
        for phrase in subjects
    ]
    return tuple(phrases)


def draw_captions(
    facts: Tensor,
    subjects: Tensor,
    generator: torch.Generator,
    *,
    held_out: bool = False,
    whole: bool = False,
) -> Tensor:
    """Draw a caption of every row of facts.

    Parameters
    ----------
    facts, subjects
        [n, 13] and [n], as `draw_facts` returns them.
    generator
        Draws topics, order and phrases, on the device of `facts`.
    held_out
        Whether phrases are those that no training sees, where a situation has any.
    whole
        Whether every topic is mentioned, so that a caption says its picture.

    Returns
    -------
    Tensor
        Captions [n, topics]: indices into `list_phrases`, the empty ones at last.
    """
    count, device = len(facts), facts.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    situations = _find_situations(facts, subjects, together=rand(count) < 0.7)
    share = 0.3 + 0.7 * rand(count, 1)
    shares = [
        torch.full_like(share, 1.0 if topic in _ALWAYS or whole else MENTIONED[topic])
        if topic in _ALWAYS or topic in MENTIONED or whole
        else share
        for topic in TOPICS
    ]
    mentioned = (rand(count, len(TOPICS)) < torch.cat(shares, 1)) & (situations >= 0)
    first, counts = _tables(held_out, device)
    rows = torch.arange(len(TOPICS), device=device).expand_as(situations)
    known = situations.clamp(min=0)
    rank = (rand(count, len(TOPICS)) * counts[rows, known]).long()
    captions = torch.where(mentioned, first[rows, known] + rank, 0)
    order = rand(count, len(TOPICS))
    order[:, 0] = -2
    # Half of the captions begin with the tops, as people do who describe a building.
    order[:, 1:4] -= (rand(count, 1) < 0.5).float()
    captions = captions.gather(1, (order + 9 * (captions == 0)).argsort(1))
    return _insert_with(captions, rand(count) < 0.5)


def write_caption(caption: Tensor) -> str:
    """Write the text of a caption [topics]."""
    phrases = list_phrases()
    texts = [phrases[index].text for index in caption.tolist() if index]
    return ", ".join(texts).replace(" with, ", " with ")


def write_captions(captions: Tensor) -> list[str]:
    """Write the texts of captions [n, topics]."""
    return [write_caption(caption) for caption in captions]


def find_mentioned(captions: Tensor) -> dict[str, Tensor]:
    """Find the attributes of `FACTS` that captions [n, topics] decide, [n] truth values each."""
    topics = list(TOPICS)
    topic_of = torch.tensor(
        [topics.index(phrase.topic) if phrase.topic else -1 for phrase in list_phrases()],
        device=captions.device,
    )
    said = topic_of[captions]
    found = {
        name: torch.zeros(len(captions), dtype=torch.bool, device=said.device) for name in COLUMN
    }
    for topic, names in DECIDES.items():
        for name in names:
            found[name] |= (said == topics.index(topic)).any(1)
    return found


def _find_situations(facts: Tensor, subjects: Tensor, together: Tensor) -> Tensor:
    """Find the situation of every topic [n, topics]; -1 where nothing can be said of it.

    `together` [n] says where two equal tops are one topic rather than two.
    """
    column = {name: facts[:, index] for name, index in COLUMN.items()}
    pair = together & (column["left_top"] == column["right_top"])
    situations = {
        **{name: column[name] for name in TOPICS if name in column},
        "subject": torch.where(subjects < 3, subjects, -1),
        "tops": torch.where(pair, column["left_top"], -1),
        "left_top": torch.where(pair, -1, column["left_top"]),
        "right_top": torch.where(pair, -1, column["right_top"]),
        "trees": column["left_tree"] + 2 * column["right_tree"],
        # Of a watermark that is absent nothing is said; the only situation is that it is there.
        "middle_watermark": column["middle_watermark"] - 1,
        "bottom_watermark": column["bottom_watermark"] - 1,
    }
    return torch.stack([situations[topic] for topic in TOPICS], 1)


def _tables(held_out: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first phrase, and how many there are, of each situation [topics, situations]."""
    size = (len(TOPICS), max(len(situations) for situations in TOPICS.values()))
    first, counts = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
    number = 1
    for row, situations in enumerate(TOPICS.values()):
        for column, said in enumerate(situations):
            chosen = said.held_out if held_out and said.held_out else said.phrases
            skipped = len(said.phrases) if chosen is said.held_out else 0
            first[row, column] = number + skipped
            counts[row, column] = len(chosen)
            number += len(said.phrases) + len(said.held_out)
    return first.to(device), counts.to(device)


def _insert_with(captions: Tensor, wanted: Tensor) -> Tensor:
    """Put ``with`` between a subject and a thing where it is wanted [n]."""
    phrases = list_phrases()
    things = torch.tensor(
        [bool(phrase.text) and not phrase.text.startswith(_NOT_AFTER_WITH) for phrase in phrases],
        device=captions.device,
    )
    numbers = {phrase.text: number for number, phrase in enumerate(phrases)}
    longer = torch.tensor(
        [numbers.get(f"{phrase.text} with", 0) for phrase in phrases], device=captions.device
    )
    replaced = longer[captions[:, 0]]
    joined = wanted & (replaced > 0) & things[captions[:, 1]]
    captions = captions.clone()
    captions[:, 0] = torch.where(joined, replaced, captions[:, 0])
    return captions
