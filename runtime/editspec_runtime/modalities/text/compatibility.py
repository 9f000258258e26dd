"""The ways to compute edits of facts: ours, or those of published code.

Each quirk of published code that changes a number is one field.
"""

from __future__ import annotations

from dataclasses import dataclass

from editspec_runtime.core.compatibility import Compatibility


@dataclass(frozen=True)
class Optimiser:
    """The search for the value that makes a model go on with a text.

    Attributes
    ----------
    evaluations
        The largest number of evaluations of the loss; there is one step less.
    learning_rate
        The rate of Adam; where it is `relative`, for anchors of root mean square 1.
    decay
        The weight of the norm of the shift over the square of the norm of the anchor.
    kl
        The weight of the divergence of what follows the subject elsewhere.
    clamp
        The largest norm of the shift, as a share of that of the anchor. Larger ones reach more
        paraphrases, and more of what must stay; docs/facts.md has the measurements.
    enough
        The loss at which the search ends.
    keep
        The weight of the divergence of what follows other prompts about the subject.
    relative
        Whether the learning rate is multiplied by the root mean square of the anchor.
    of_block
        Whether the anchor is the output of the block; else it is the value of the layer.
    """

    evaluations: int = 40
    learning_rate: float = 0.3
    decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 0.6
    enough: float = 0.05
    keep: float = 1.0
    relative: bool = True
    of_block: bool = True


@dataclass(frozen=True)
class TextCompatibility(Compatibility):
    """The choices behind the numbers of edits of texts.

    Attributes
    ----------
    counts_first
        Whether the first position of a text counts in the second moment.
    bare_key
        Whether the change is scaled to the key of the bare prompt, and its direction is that of the
        mean key. Else both are of the mean key.
    bare_weight
        The weight of the bare prompt's key in the mean key; None where it counts as any other.
    single, several
        The search of values for one layer, and for several.
    absolute_weight
        Whether the weight of the collateral is a number of tokens of the corpus. Else it is
        multiplied by the number of features of a key.
    absolute_threshold
        Whether the threshold of eigenvalues and the ridge are taken as they are. Else they are
        shares of the mean eigenvalue.
    protects_as_edited
        Whether protected keys are those that the model had right after their own edit. Else they
        are those that it has before the edit which protects them.
    """

    unedited_moment: bool = True
    counts_first: bool = False
    bare_key: bool = False
    bare_weight: float | None = 0.5
    single: Optimiser = Optimiser()
    several: Optimiser = Optimiser()
    absolute_weight: bool = False
    absolute_threshold: bool = False
    protects_as_edited: bool = False

    def collateral_weight(self, given: float, features: int, keys: int) -> float:
        """The weight of the collateral beside the mean square over the keys of a rule.

        Relative, 1 halves the answer to a key that is like those of the sample, of one fact.
        """
        tokens = given if self.absolute_weight else given * features
        return tokens / keys

    def eigenvalue(self, given: float, mean: float) -> float:
        """A threshold or a ridge as an eigenvalue; `mean` is the mean eigenvalue."""
        return given if self.absolute_threshold else given * mean


EDITSPEC = TextCompatibility()

_VALUE = Optimiser(20, learning_rate=0.5, clamp=4.0, relative=False, of_block=False)
_BLOCK = Optimiser(20, learning_rate=0.5, clamp=0.75, relative=False)

COMPATIBILITIES: dict[str | None, TextCompatibility] = {
    None: EDITSPEC,
    "rome-2022": TextCompatibility(
        counts_first=True,
        bare_key=True,
        bare_weight=None,
        single=_VALUE,
        several=_VALUE,
    ),
    "memit-2022": TextCompatibility(
        counts_first=True,
        single=_BLOCK,
        several=_BLOCK,
        absolute_weight=True,
        protects_as_edited=True,
    ),
    "alphaedit-2024": TextCompatibility(
        counts_first=True,
        single=_BLOCK,
        several=_BLOCK,
        absolute_threshold=True,
        protects_as_edited=True,
    ),
}
"""The choices by the names in a spec."""


def text_compatibility(given: Compatibility) -> TextCompatibility:
    """The choices of texts; ours where none are given."""
    return given if isinstance(given, TextCompatibility) else EDITSPEC
