"""Questions about one item of a model: which edits of a stack did what to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from editspec.engine.session import BuildSession
from editspec_runtime.core.method import Change
from editspec_runtime.core.model import Model
from editspec_runtime.errors import UsageError
from editspec_runtime.io.weights import Weights
from editspec_runtime.maths.shapley import Attribution, Coalition
from editspec_runtime.patches.patch import Patch

if TYPE_CHECKING:
    from PIL import Image

ModelOf = Callable[[Coalition], Model]
"""Gives the model that some edits of a stack make together."""

AT_MOST, AT_LEAST = "at most", "at least"
"""The sides of bounds, as checks have them."""

Asked = Mapping[str, Any]
"""The options of a command that say what is asked about, without hyphens; None where not given."""


@dataclass(frozen=True)
class Bound:
    """The side from which a measure is bounded.

    Attributes
    ----------
    side
        ``at most`` or ``at least``.
    limit
        The limit where none is given; None where there is no usual one.
    either
        Whether it may be bounded from the other side instead.
    """

    side: str
    limit: float | None = None
    either: bool = False

    def keeps(self, value: float, limit: float) -> bool:
        """Whether a value keeps a limit."""
        return value <= limit if self.side == AT_MOST else value >= limit


def refuse_options(asked: Asked, names: Sequence[str], what: str) -> None:
    """Raise a `UsageError` where an option is given that a question does not have.

    `what` says what is asked about, such as ``images``.
    """
    for name in names:
        if asked.get(name) is not None:
            raise UsageError(
                f"--{name} is not for {what}.",
                f"Leave --{name} out.",
            )


class Question(Protocol):
    """One item that a model makes, and what is looked at in it.

    Its modality makes it, so that nothing else knows what an item is.
    """

    @property
    def name(self) -> str:
        """The item in words, such as ``latent 7``."""

    def value(self, model: Model) -> Tensor:
        """What is looked at in the item as a model makes it, [m] float64 on the CPU."""

    def size_of(self, change: Tensor) -> float:
        """The size of a change [m] of the value, as a number for people."""

    @property
    def unit(self) -> str:
        """The meaning of that size in words, behind the number."""

    def draw(
        self, model_of: ModelOf, names: Sequence[str], found: Attribution
    ) -> Image.Image | None:
        """Draw the item with and without each edit, and the part of each.

        None where the modality has no pictures.
        """

    def measure(self, session: BuildSession, measure: str, count: int) -> float:
        """Measure what the first `count` edits of a built session have done to the item."""

    def bound_of(self, measure: str) -> Bound:
        """The side from which a measure is bounded, and its usual limit.

        Raises `UsageError` where the modality has no such measure of the item.
        """

    @property
    def first(self) -> int:
        """The number of edits after which the item is first measured; 0 for before all edits."""


@dataclass
class Coalitions:
    """The models that some edits of a built session make together.

    A patch is an exact change of the base, so that any of them can be left out: the changes of the
    others are added up in the order of the stack, and rounded once.

    Attributes
    ----------
    session
        A session in which every edit is built.
    question
        What is looked at.
    on_value
        Is called with the number of values that were computed.
    """

    session: BuildSession
    question: Question
    on_value: Callable[[int], None]
    patches: list[Patch] = field(init=False)
    kept: dict[Coalition, Tensor] = field(default_factory=dict, init=False)
    computed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Write the changes of the patches out, once for all coalitions."""
        base = self.session.checkpoint
        self.patches = [_write_out(patch, base) for patch in self.session.stack]

    def model(self, coalition: Coalition) -> Model:
        """The model that the edits of a coalition make together."""
        stack = [self.patches[number] for number in coalition]
        return replace(self.session, stack=stack).current_model()

    def value(self, coalition: Coalition) -> Tensor:
        """The value of a coalition, [m]; those of few and of nearly all edits are kept."""
        if coalition in self.kept:
            return self.kept[coalition]
        found = self.question.value(self.model(coalition))
        self.computed += 1
        self.on_value(self.computed)
        if len(coalition) <= 1 or len(coalition) >= len(self.patches) - 1:
            self.kept[coalition] = found
        return found


def _write_out(patch: Patch, base: Weights) -> Patch:
    """The patch with its full changes, which add up to the same bits."""
    changes = {}
    for name in patch.parameters:
        changes[name] = Change(full=patch.known_change(name, base[name]))
    return Patch.of_changes(changes)
