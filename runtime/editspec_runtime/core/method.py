"""Methods: their settings, needs and problems. This module imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from editspec_runtime.core.progress import (
    LossCallback,
    NoteCallback,
    StepCallback,
    ignore_loss,
    ignore_note,
    ignore_steps,
)

if TYPE_CHECKING:
    from torch import Tensor

    from editspec_runtime.core.compatibility import Compatibility
    from editspec_runtime.core.model import Model
    from editspec_runtime.core.rule import LayerRule, LazyRule

RANK, CONTEXT, DIRECTIONS, OBSERVE, PRESERVE, REFINE = (
    "rank",
    "context",
    "directions",
    "observe",
    "preserve",
    "refine",
)
"""The fields of an edit that a method may take."""

LEARNED = "learned"
"""The directions of an edit that are solved for together with the change."""

FULL: Literal["full"] = "full"
"""The rank of a change that has no limit."""

LEARNED_DIRECTIONS, FULL_RANK = f"directions: {LEARNED}", f"rank: {FULL}"
"""The values of directions and rank that not every method takes that takes the fields."""

LINEAR, MATRIX, CHANNELWISE = "linear", "matrix", "channelwise"
ERASED_UNITS, OUTPUTS = "erased-units", "outputs"
"""The properties that a method may need.

They are a layer that is linear from key to value, one whose weight is a matrix without taps, one
that acts on each output channel alone, sources that erase units, and the outputs of the model in
place of the values of a layer.
"""


class Settings(BaseModel):
    """The settings of a method in a spec. Each method has a subclass of its own."""

    # Built when first used: most commands need one method or none.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    method: str = Field(description="The solver.")

    def as_json(self) -> dict[str, Any]:
        """The settings that have a value, as plain values."""
        return self.model_dump(mode="json", exclude_none=True)

    def contradiction(self) -> tuple[str, str] | None:
        """Find a setting that contradicts the others, and why; None where all fit."""
        return None

    def hint(self) -> str:
        """Advice on settings for when the method finds no change better than none."""
        return "Lower the learning rate where there is one"

    def less_collateral(self) -> str:
        """Advice on settings for when the method changes too much of the rest."""
        return "Lower the rank, or give a smaller context."


@dataclass(frozen=True)
class Method:
    """One entry of the registry of methods.

    Attributes
    ----------
    name
        The name of the method in the language.
    settings
        The class of its settings.
    module
        The module that defines ``solve(problem)``, and ``find_curve`` where `has_curve`.
    takes
        The fields of an edit that it takes, such as ``rank``.
    needs
        The properties of a layer or an edit that it needs, such as ``linear``.
    has_curve
        Whether it trades the loss against the collateral at a price that can be chosen.
    """

    name: str
    settings: type[Settings]
    module: str
    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    has_curve: bool = False

    def load(self) -> None:
        """Import the method's module, and with it torch."""
        import_module(self.module)

    @property
    def solve(self) -> Solve:
        """The function that solves an edit. Its module, and with it torch, is imported."""
        solve: Solve = import_module(self.module).solve
        return solve

    @property
    def find_curve(self) -> Callable[..., list[CurvePoint]]:
        """The function that finds the changes of a rule between little loss and little collateral.

        The method's module, and with it torch, is imported.
        """
        find_curve: Callable[..., list[CurvePoint]] = import_module(self.module).find_curve
        return find_curve

    def make_settings(self, **values: Any) -> Settings:
        """Make settings from these values and the defaults of the rest."""
        return self.settings(method=self.name, **values)


def _refuse() -> Tensor:
    raise AssertionError("these statistics are not at hand")


@dataclass(frozen=True)
class KeyStatistics:
    """Statistics of the keys of a layer. Each is computed when it is called for.

    Attributes
    ----------
    moment
        C, [in, in] float64.
    sample
        Many keys, [p, in], each column sorted.
    taps
        E[x x^T] of the keys under all taps of the kernel, [in * taps, in * taps] float64.
    """

    moment: Callable[[], Tensor]
    sample: Callable[[], Tensor]
    taps: Callable[[], Tensor] = _refuse


@dataclass(frozen=True)
class Change:
    """The change of one weight: low-rank, or full.

    Attributes
    ----------
    directions, coefficients
        D [s, in], orthonormal rows, and A [out, s, *taps]: the change is A D. None where the change
        is full.
    full
        The change in the shape of the checkpoint; None where the change is low-rank.
    """

    directions: Tensor | None = None
    coefficients: Tensor | None = None
    full: Tensor | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether the weight stays as it is."""
        change = self.full if self.coefficients is None else self.coefficients
        return change is None or not bool(change.any())


@dataclass(frozen=True)
class CurvePoint:
    """A point of the curve of a method.

    Attributes
    ----------
    collateral_weight
        The weight of the collateral.
    change
        The change that it gives.
    """

    collateral_weight: float
    change: Change


OutputLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""A function from outputs [n, ...], the wanted outputs [n, ...] and the weight of each number to a
scalar.
"""


@dataclass(frozen=True)
class Problem:
    """An edit as a method sees it.

    Attributes
    ----------
    model
        The model as the edits before left it.
    rules
        A rule for each weight that changes, in the order of computation.
    settings
        The settings of the method.
    rank, directions
        As in `CompiledEdit`.
    statistics
        A function from a model and the name of a layer to the statistics of the layer's keys.
    compatibility
        The choices behind the numbers, such as whether the best iterate is returned or the last.
    earlier
        The rules of the edits of the stack before this one, in the order of the stack. A method
        that keeps earlier edits adds their keys to its constraint.
    progress, on_loss
        Callbacks for the steps, and for the losses on the way. A method without steps calls
        neither.
    on_note
        A callback for notes on what could not be done as asked.
    output_loss
        The loss that a method that needs outputs minimises; None for the method's own.
    """

    model: Model
    rules: Sequence[LazyRule]
    settings: Settings
    rank: int | None
    directions: str | None
    statistics: Callable[[Model, str], KeyStatistics]
    compatibility: Compatibility
    earlier: Sequence[LayerRule] = ()
    progress: StepCallback = ignore_steps
    on_loss: LossCallback = ignore_loss
    on_note: NoteCallback = ignore_note
    output_loss: OutputLoss | None = None


Solve = Callable[[Problem], dict[str, Change]]
"""A function from a problem to the change of each weight, by its name in the checkpoint."""
