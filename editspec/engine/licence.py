"""The licence of weights, as the files beside them say it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from editspec.engine.resources import locate_weights
from editspec_runtime.errors import FileError
from editspec_runtime.io.downloads import hub_neighbour

NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
"""The names of files that hold a licence, in the order in which they are looked for."""

CARD = "README.md"
"""The name of a model card, whose head says the licence."""

LARGEST = 2**20
"""The most bytes of a licence or a card that are read."""


@dataclass(frozen=True)
class Licence:
    """What is known of a licence.

    Attributes
    ----------
    name
        Its identifier, such as ``mit``; None where no card says it.
    text
        Its text; None where no file holds it.
    """

    name: str | None = None
    text: bytes | None = None


def find_licence(weights: str, place: Path) -> Licence:
    """Find the licence of weights: in the card and the licence file beside them.

    Parameters
    ----------
    weights
        The weights as they are named. Of a file of the hub, its repository is asked.
    place
        Where they lie.
    """
    folder = place if place.is_dir() else place.parent
    card = hub_neighbour(weights, CARD)
    try:
        path = folder / CARD if card is None else locate_weights(card)
    except FileError:  # a repository without a card
        return Licence()
    texts = (_read(folder / name) for name in NAMES)
    text = None if card is not None else next(filter(None, texts), None)
    return Licence(_licence_of_card(_read(path)), text)


def _read(path: Path) -> bytes | None:
    """The bytes of a small file; None where there is none."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        return None
    return path.read_bytes()


def _licence_of_card(card: bytes | None) -> str | None:
    """The licence in the head of a card, which is YAML between two lines of dashes."""
    parts = (card or b"").decode("utf-8", "replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    name = head.get("license") if isinstance(head, dict) else None
    return name if isinstance(name, str) and name.isprintable() else None
