"""How numbers are made where a paper leaves it open: our way, or that of published code.

Each quirk of published code that changes a number is one field. Such a way exists so that published
numbers can be matched, and is off by default. A modality adds its own fields in a subclass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compatibility:
    """One way in which numbers are made, as far as it is the same for every modality.

    Attributes
    ----------
    chunk
        Items per forward batch of the second moment, at the most.
    fixed_chunk
        Whether an item's numbers depend on its place in the batch, so that the chunk stays as it is
        even where it does not fit into memory.
    keep_best
        Whether a solver returns the best iterate that satisfies its constraint; else the last one.
    states_added
        Whether the squared loss of several pairs is that of the one state of the scenes and that of
        the other, added up; else it is the mean over all pairs.
    """

    chunk: int = 16
    fixed_chunk: bool = False
    keep_best: bool = True
    states_added: bool = False


EDITSPEC = Compatibility()
"""Our way."""
