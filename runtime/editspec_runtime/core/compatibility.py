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
    unedited_moment
        Whether C is that of the unedited model, whatever the edits before have changed.
    """

    chunk: int = 16
    fixed_chunk: bool = False
    keep_best: bool = True
    absolute_rate: bool = False
    states_added: bool = False
    unedited_moment: bool = False

    def collateral_weight(self, given: float, features: int, keys: int) -> float:
        """The weight of the collateral beside the mean square over the keys of a rule.

        `given` is the one of the settings; `features` and `keys` are the length of a key of the
        layer, and the number of keys of the rule.
        """
        del features, keys
        return given

    def eigenvalue(self, given: float, mean: float) -> float:
        """A threshold or a ridge of the settings, as an eigenvalue of C of this `mean`."""
        return given * mean


EDITSPEC = Compatibility()
"""The choices of editspec itself."""
