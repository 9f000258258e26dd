"""The ways to compute edits of concepts: ours, or those of published code.

Each quirk of published code that changes a number is one field.
"""

from __future__ import annotations

from dataclasses import dataclass

from editspec_runtime.core.compatibility import Compatibility


@dataclass(frozen=True)
class PromptCompatibility(Compatibility):
    """The choices behind the numbers of edits of prompts.

    Attributes
    ----------
    ridge
        What every direction costs, where a spec does not say it.
    tokens
        The tokens of a place that names none.
    from_last_on
        Whether the last content token, and all tokens, mean every token from the last content token
        on, as far as both prompts of a pair reach.
    words_aligned
        Whether prompts are aligned by their words, all tokens of the target being keys. If not, the
        tokens that two prompts share before and behind what differs are.
    empty_sampled
        Whether the empty prompt is always among those that C is taken over.
    empty_preserved
        Whether all tokens of the empty prompt are always preserved.
    whole_preserved
        Whether all tokens of a preserved prompt are preserved, where it does not name some.
    falling_weights
        Whether a preserved prompt counts 1 over their number, and at least 0.1, where it names no
        weight. If not, it counts once.
    """

    ridge: float = 0.5
    tokens: str = "last"
    from_last_on: bool = False
    words_aligned: bool = False
    empty_sampled: bool = True
    empty_preserved: bool = False
    whole_preserved: bool = False
    falling_weights: bool = False

    def collateral_weight(self, given: float, features: int, keys: int) -> float:
        """The weight of the collateral beside the mean square over the keys of a rule.

        What is given is beside the sum of squares, so that an edit of several concepts weighs each
        as an edit of its own does.
        """
        del features
        return given / keys

    def preserved_weight(self, count: int) -> float:
        """The weight of each of `count` preserved prompts that name none."""
        if not self.falling_weights:
            return 1.0
        return max(0.1, round(1 / count, 3))


EDITSPEC = PromptCompatibility()

COMPATIBILITIES: dict[str | None, PromptCompatibility] = {
    None: EDITSPEC,
    "uce-2024": PromptCompatibility(empty_sampled=False),
    "uce-2023": PromptCompatibility(
        tokens="all",
        from_last_on=True,
        empty_sampled=False,
        empty_preserved=True,
        whole_preserved=True,
        falling_weights=True,
    ),
    "time-2023": PromptCompatibility(
        ridge=0.1, tokens="aligned", words_aligned=True, empty_sampled=False
    ),
}
"""The choices by the names in a spec."""
