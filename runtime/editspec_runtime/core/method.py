"""A method: its settings, the fields of an edit that it takes, what it needs, and the problem that
it solves. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from editspec_runtime.core.progress import LossCallback, StepCallback, ignore_loss, ignore_steps

if TYPE_CHECKING:
    from torch import Tensor

    from editspec_runtime.core.compatibility import Compatibility
    from editspec_runtime.core.model import Model
    from editspec_runtime.core.rule import LayerRule, LazyRule

RANK, CONTEXT, DIRECTIONS, OBSERVE, PRESERVE = (
    "rank",
    "context",
    "directions",
    "observe",
    "preserve",
)
"""The fields of an edit that a method may take."""

LINEAR, CHANNELWISE, ERASED_UNITS, OUTPUTS = "linear", "channelwise", "erased-units", "outputs"
"""What a method may need: a layer that is linear from key to value, a layer that acts on each
output channel alone, sources that erase units, or the model's outputs in place of a layer's values.
"""


class Settings(BaseModel):
    """The settings of a method, as a spec gives them. Each method has a class of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: str = Field(description="The solver.")

    def as_json(self) -> dict[str, Any]:
        """The settings that have a value, as plain values."""
        return self.model_dump(mode="json", exclude_none=True)

    def contradiction(self) -> tuple[str, str] | None:
        """A setting that contradicts the others, and why; None where all fit."""
        return None

    def hint(self) -> str:
        """The settings that help where the method finds no change better than none."""
        return "Lower the learning rate where there is one"


@dataclass(frozen=True)
class Method:
    """One entry of the registry of methods.

    Attributes
    ----------
    name
        The method in the language.
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

    @property
    def solve(self) -> Solve:
        """The function that solves an edit. Imports the method's module, and with it torch."""
        solve: Solve = import_module(self.module).solve
        return solve

    @property
    def find_curve(self) -> Callable[..., list[Any]]:
        """The function that finds the trade of the loss of a rule against its collateral. Imports
        the method's module, and with it torch.
        """
        find_curve: Callable[..., list[Any]] = import_module(self.module).find_curve
        return find_curve

    def make_settings(self, **values: Any) -> Settings:
        """Settings with these values and the defaults of the rest."""
        return self.settings(method=self.name, **values)


@dataclass(frozen=True)
class KeyStatistics:
    """What is known of the keys of a layer. Each is computed when it is asked for.

    Attributes
    ----------
    moment
        C, [in, in] float64.
    sample
        Many keys, [p, in], columns sorted.
    """

    moment: Callable[[], Tensor]
    sample: Callable[[], Tensor]


@dataclass(frozen=True)
class Change:
    """The change of one weight: low-rank, or full.

    Attributes
    ----------
    directions, coefficients
        D [s, in], orthonormal rows, and A [out, s, *taps]: the change is A D. None where it is
        full.
    full
        The change in the shape of the checkpoint; None where it is low-rank.
    """

    directions: Tensor | None = None
    coefficients: Tensor | None = None
    full: Tensor | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether the weight stays as it is."""
        change = self.full if self.coefficients is None else self.coefficients
        return change is None or not bool(change.any())


OutputLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""A scalar from outputs [n, ...], what they should be, and how much each of their numbers counts.
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
        Those of the method.
    rank, directions
        As in `CompiledEdit`.
    statistics
        Gives what is known of the keys of a layer of a model.
    compatibility
        Whether the best iterate is returned, or the last.
    earlier
        The rules of the edits before.
    progress, on_loss
        Called with the steps, and with the losses on the way. A method that takes no steps calls
        neither.
    output_loss
        What a method that needs outputs minimises; None for its own.
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
    output_loss: OutputLoss | None = None


Solve = Callable[[Problem], dict[str, Change]]
"""Gives the change of each weight by its name in the checkpoint."""
