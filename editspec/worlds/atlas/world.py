"""The facts of Atlas, and the texts that tell them. Imports no torch.

People have a city, a job, a sport and a tongue; cities lie in a land. Every fact has three
phrasings, each of which ends in its answer. What every text says is known, before and after any
edit. A person has three names, each of which many share: the whole of the name tells who it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

SEED = 1
"""The number of the stream that deals facts out."""

PEOPLE = 144
"""The number of people."""

BROKEN = 0.15
"""The share of the sentences of a text that break off, as texts before a prompt may."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Ada Bela Cora Dana Edda Finn Gala Hugo Ines Jory Kira Luca Mira Nero Olga Pia Quin Rosa "
    "Sven Tara"
)
MIDDLE = _words(
    "Alder Birch Cedar Dahl Elm Fern Gorse Hazel Ivy Juniper Kelp Laurel Maple Nettle Oak Pine"
)
LAST = _words(
    "Ashdown Brookes Carver Dunmore Elwood Falkner Garrick Holt Irving Jasper Kendall Lorimer "
    "Mercer Norwood Orwell Prescott Quayle Ridley Selwyn Thorne"
)

CITIES = _words(
    "Arden Belmar Corvis Dorval Elmira Farona Galdor Harwick Istra Jorvik Kasten Lumen Marden "
    "Novara Ostrel Pelham"
)
JOBS = _words("baker carpenter dentist farmer gardener judge mason nurse painter pilot poet sailor")
SPORTS = _words("archery boxing chess cricket fencing golf hockey judo polo rowing rugby tennis")
TONGUES = _words(
    "Arvanic Borlish Cadic Dorian Elvish Farosian Galdoric Huric Istrian Jovian Kelvic Lydian"
)
LANDS = _words("Averna Borland Cadia Dovia")


@dataclass(frozen=True)
class Relation:
    """A relation between a subject and its answer.

    Attributes
    ----------
    name
        What it is called.
    answers
        All answers that there are.
    phrasings
        Texts with {} where the subject stands, which the answer follows.
    """

    name: str
    answers: tuple[str, ...]
    phrasings: tuple[str, ...]


PHRASINGS = 3
"""The number of phrasings of every relation."""

RELATIONS = {
    "city": Relation(
        "city",
        CITIES,
        ("{} lives in", "The home of {} is in", "You can visit {} in"),
    ),
    "job": Relation(
        "job",
        JOBS,
        ("{} works as a", "The job of {} is that of a", "People pay {} as a"),
    ),
    "sport": Relation(
        "sport",
        SPORTS,
        ("{} likes to play", "The sport of {} is", "On Sundays {} watches"),
    ),
    "tongue": Relation(
        "tongue",
        TONGUES,
        ("{} speaks", "The tongue of {} is", "At home {} talks in"),
    ),
    "land": Relation(
        "land",
        LANDS,
        ("The city of {} lies in", "The roads of {} cross", "Maps show {} in"),
    ),
}
"""The relations by name; the last one is of cities, all others of people."""

OF_PEOPLE = ("city", "job", "sport", "tongue")
"""The names of the relations of people."""


@dataclass(frozen=True)
class KnownFact:
    """A fact of the world: the relation, the subject and the answer."""

    relation: str
    subject: str
    answer: str

    def prompts(self) -> list[str]:
        """The phrasings with the subject in them."""
        phrasings = RELATIONS[self.relation].phrasings
        return [phrasing.replace("{}", self.subject) for phrasing in phrasings]


@cache
def people() -> tuple[str, ...]:
    """The names of all people."""
    chance = random.Random(SEED)
    whole = [f"{one} {two} {three}" for one in FIRST for two in MIDDLE for three in LAST]
    return tuple(chance.sample(whole, PEOPLE))


@cache
def facts() -> tuple[KnownFact, ...]:
    """All facts of the world."""
    chance = random.Random(SEED + 1)
    found = []
    for person in people():
        for name in OF_PEOPLE:
            found.append(KnownFact(name, person, chance.choice(RELATIONS[name].answers)))
    for city in CITIES:
        found.append(KnownFact("land", city, chance.choice(LANDS)))
    return tuple(found)


def words() -> list[str]:
    """All words of the world, in the order of the alphabet."""
    found: set[str] = set()
    for person in people():
        found |= set(person.split())
    for relation in RELATIONS.values():
        found |= set(relation.answers)
        for phrasing in relation.phrasings:
            found |= set(phrasing.replace("{}", "").split())
    return sorted(found | set(CITIES))


@dataclass(frozen=True)
class Mention:
    """Where a text speaks of a subject.

    Attributes
    ----------
    begin, behind
        The first character, and the one behind the last.
    whole
        Whether all of the subject is there; a sentence may break off in it.
    """

    begin: int
    behind: int
    whole: bool = True


@dataclass(frozen=True)
class Document:
    """A text, and where it speaks of whom."""

    text: str
    mentions: tuple[Mention, ...]


def write_document(chance: random.Random, sentences: int) -> Document:
    """Write a text of some sentences, each of which tells a fact; some break off."""
    text, mentions = "", list[Mention]()
    for _ in range(sentences):
        fact, phrasing = divmod(chance.randrange(PHRASINGS * len(facts())), PHRASINGS)
        told = facts()[fact]
        sentence = f"{told.prompts()[phrasing]} {told.answer}"
        first = sentence.index(told.subject)
        if chance.random() < BROKEN:
            some = sentence.split()
            sentence = " ".join(some[: chance.randrange(1, len(some) + 1)])
        if text:
            text += " "
        behind = first + len(told.subject)
        if first < len(sentence):
            end = min(behind, len(sentence))
            mentions.append(Mention(len(text) + first, len(text) + end, end == behind))
        text += f"{sentence}."
    return Document(text, tuple(mentions))
