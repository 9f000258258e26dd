"""The ways to compute what a paper leaves open: ours, or that of published code.

Each quirk of published code that changes a number is one field. The quirks exist so that published
numbers can be reproduced, and they are off by default. A modality adds its own in a subclass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compatibility:
    """The choices behind the numbers that apply to every modality.

    Attributes
    ----------
    chunk
        The largest number of items in a forward batch of the second moment.
    fixed_chunk
        Whether an item's numbers depend on its place in the batch. If they do, the chunk is never
        made smaller, not even when it does not fit into memory.
    keep_best
        Whether a solver returns the best iterate that satisfies its constraint. If not, the solver
        returns the last iterate.
    absolute_rate
        Whether the learning rate of a method is taken as it is. If not, it is multiplied by the
        scale of the weight.
    states_added
        Whether the squared loss of several pairs is the sum of the losses of the two states of the
        scenes. If not, the loss is the mean over all pairs.
    """

    chunk: int = 16
    fixed_chunk: bool = False
    keep_best: bool = True
    absolute_rate: bool = False
    states_added: bool = False


EDITSPEC = Compatibility()
"""The choices of editspec itself."""
