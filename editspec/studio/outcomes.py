"""The results of Execute that are at hand: the latest, and those that undo comes back to."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import RLock

from editspec.engine.built import BuiltEdit
from editspec.studio.identities import Identities
from editspec_compiler import LoadedSpec

LIMIT = 6
"""The number of results that are kept."""


@dataclass(frozen=True)
class Outcome:
    """The result of Execute.

    Attributes
    ----------
    loaded
        The spec that was executed; None where no edit was on.
    built
        Its edits.
    after
        The name of the generator that they give.
    content
        The digests of what was executed: of the spec without edits, and with one more each time.
    identities
        The identities of the edits.
    """

    loaded: LoadedSpec | None
    built: tuple[BuiltEdit, ...]
    after: str
    content: tuple[str, ...]
    identities: Identities

    def built_before(self, identities: Identities) -> tuple[BuiltEdit, ...]:
        """Return the edits that a spec begins with, as far as they are those of `identities`."""
        count = 0
        # The text may have more or fewer edits by now than when it was executed.
        for executed, present in zip(self.identities, identities, strict=False):
            if executed != present:
                break
            count += 1
        return self.built[:count]


class Outcomes:
    """The latest results, by the digests of what was executed."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._kept: OrderedDict[str, Outcome] = OrderedDict()

    def keep(self, outcome: Outcome) -> None:
        """Keep a result as the latest, and forget the oldest where there are many."""
        with self._lock:
            self._kept[outcome.content[-1]] = outcome
            self._kept.move_to_end(outcome.content[-1])
            while len(self._kept) > LIMIT:
                self._kept.popitem(last=False)

    def find(self, content: str) -> Outcome | None:
        """Return the result of a content, or else the latest; None without any."""
        with self._lock:
            latest = next(reversed(self._kept.values()), None)
            return self._kept.get(content, latest)

    def find_drawn(self, after: str) -> Outcome | None:
        """Return the result that gives the generator of a name; None where it is gone."""
        with self._lock:
            return next((each for each in self._kept.values() if each.after == after), None)

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()
