"""The registry of methods, one entry each. This module imports no torch.

A new method needs a class of settings and an entry here, and a file in this folder that defines
``solve``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from editspec_runtime.core.method import (
    CHANNELWISE,
    CONTEXT,
    DIRECTIONS,
    ERASED_UNITS,
    FULL_RANK,
    LEARNED_DIRECTIONS,
    LINEAR,
    MATRIX,
    OBSERVE,
    OUTPUTS,
    PRESERVE,
    RANK,
    REFINE,
    Method,
    Settings,
)

Count = Annotated[int, Field(ge=1, le=10**7)]
Number = Annotated[float, Field(allow_inf_nan=False)]

COLLATERAL_WEIGHT = 0.1
"""The default collateral weight of least squares. docs/bench.md says how it was chosen."""


RATE = "The rate of Adam, relative to the scale of the weight."

LESS_RATE = "Lower solver.learning_rate, solver.steps or the rank."
LESS_WITHOUT_RANK = "Lower solver.learning_rate or solver.steps, or take a method that has a rank."


class Preserving(Settings):
    """The settings of methods that know what a rule must not touch."""

    preserve_share: Number = Field(
        0.8,
        ge=0,
        lt=1,
        description="The share of what is preserved in the metric of what must stay.",
    )


class ProjectedGradient(Preserving):
    """Adam on the weight, projected into the directions (paper section 3.4)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description=RATE)
    project_every: Count = Field(10, description="Steps between two projections.")
    project_gradient: bool = Field(
        False, description="Project every gradient, too (paper section 5.2)."
    )

    def hint(self) -> str:
        """Advice: a lower rate, more projections, or more directions."""
        return "Lower solver.learning_rate, set project_every: 1, raise the rank"

    def less_collateral(self) -> str:
        """Advice: smaller or fewer steps, or fewer directions."""
        return LESS_RATE


class Direct(Preserving):
    """Adam on the coefficients of the directions (paper Eqn. 17 and 18)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description=RATE)

    def less_collateral(self) -> str:
        """Advice: smaller or fewer steps, or fewer directions."""
        return LESS_RATE


class LeastSquares(Preserving):
    """Damped least squares on the coefficients against the collateral (Eqn. 4 to 6)."""

    collateral: Number | None = Field(
        None, gt=0, description="A budget: tr(dW C dW^T) may be this share of tr(W C W^T)."
    )
    collateral_weight: Number | None = Field(
        COLLATERAL_WEIGHT,
        ge=0,
        description="The weight of the predicted collateral, where no budget is given.",
    )
    ridge: Number = Field(
        0.01,
        gt=0,
        description=(
            "A share of the mean square of a key that every change costs, where all taps count."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _budget_instead(cls, given: Any) -> Any:
        if isinstance(given, dict) and "collateral" in given:
            return {"collateral_weight": None} | given
        return given

    def contradiction(self) -> tuple[str, str] | None:
        """Find that collateral has both a weight and a budget, or neither."""
        if (self.collateral_weight is None) == (self.collateral is None):
            return "collateral", "give collateral_weight or collateral: one of the two"
        return None

    def hint(self) -> str:
        """Advice: a higher budget, or a lower weight of the collateral."""
        if self.collateral is not None:
            return "Raise solver.collateral"
        return "Lower solver.collateral_weight"

    def less_collateral(self) -> str:
        """Advice: a lower budget, or a higher weight of the collateral."""
        if self.collateral is not None:
            return "Lower solver.collateral, or the rank."
        return "Raise solver.collateral_weight, or lower the rank."


class ClosedForm(Preserving):
    """Least squares in closed form, for linear layers (paper Eqn. 14 and 15)."""

    # The solver is that of least squares, at price zero.
    collateral: ClassVar[None] = None
    collateral_weight: ClassVar[float] = 0.0

    def less_collateral(self) -> str:
        """Advice: fewer directions, or a method that weighs the collateral."""
        return f"Lower the rank, or write solver: {DEFAULT_METHOD.name}."


class LowRank(Settings):
    """Adam on the weight, whose change is cut to the rank by SVD (paper section 5.3)."""

    steps: Count = Field(10_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description=RATE)
    project_every: Count = Field(10, description="Steps between two cuts.")

    def less_collateral(self) -> str:
        """Advice: smaller or fewer steps, or fewer directions."""
        return LESS_RATE


class OneLayer(Settings):
    """Adam on the whole weight of the layer, without directions (paper Eqn. 6)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description=RATE)

    def less_collateral(self) -> str:
        """Advice: smaller or fewer steps, or a method that keeps to directions."""
        return LESS_WITHOUT_RANK


class AllWeights(Settings):
    """Adam on every weight, towards the composited outputs (paper Eqn. 3)."""

    steps: Count = Field(20_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description=RATE)

    def less_collateral(self) -> str:
        """Advice: smaller or fewer steps, or a method that keeps to directions."""
        return LESS_WITHOUT_RANK


class Ablate(Settings):
    """Ablation: the weights from the erased units become zero (GAN Dissection)."""

    def less_collateral(self) -> str:
        """Advice: fewer units."""
        return "Lower the number of units that are erased."


class NullSpace(Settings):
    """A change in directions that the keys of the sample hardly use (AlphaEdit)."""

    threshold: Number = Field(
        0.02,
        gt=0,
        description=(
            "The eigenvalue of C below which a direction counts as unused, as a share of the mean."
        ),
    )
    ridge: Number = Field(
        1.0, gt=0, description="What every direction costs, as a share of the mean eigenvalue."
    )

    def hint(self) -> str:
        """Advice: more directions, or a smaller ridge."""
        return "Raise solver.threshold, or lower solver.ridge"

    def less_collateral(self) -> str:
        """Advice: fewer directions, or a larger ridge."""
        return "Lower solver.threshold, or raise solver.ridge."


METHODS: dict[str, Method] = {}
"""Every method by its name."""


def _reduce_settings(settings: Settings) -> tuple[Callable[..., Settings], tuple[Any, ...]]:
    return settings_of, (settings.model_dump(),)


def register_method(
    name: str,
    settings: type[Settings],
    module: str,
    *,
    takes: Iterable[str] = (),
    needs: Iterable[str] = (),
    has_curve: bool = False,
) -> Method:
    """Register a method.

    The settings get a field ``method``, whose only value is `name`.
    """
    literal: Any = Literal[name]
    named = create_model(
        settings.__name__,
        __base__=settings,
        __module__=settings.__module__,
        __doc__=settings.__doc__,
        method=(literal, Field(description="The solver.")),
    )
    # pickle would look for the class by its name, which is that of its base class in this module.
    setattr(named, "__reduce__", _reduce_settings)  # noqa: B010 - mypy takes no assignment
    method = Method(name, named, module, frozenset(takes), frozenset(needs), has_curve)
    METHODS[name] = method
    return method


_DIRECTED = (RANK, CONTEXT, DIRECTIONS, PRESERVE, REFINE)
_HERE = "editspec_runtime.methods"

PROJECTED_GRADIENT = register_method(
    "projected-gradient",
    ProjectedGradient,
    f"{_HERE}.projected_gradient",
    takes=(*_DIRECTED, OBSERVE),
)
"""The paper's own method, which takes layers of any function."""
register_method("direct", Direct, f"{_HERE}.direct", takes=(*_DIRECTED, OBSERVE))
DEFAULT_METHOD = register_method(
    "least-squares",
    LeastSquares,
    f"{_HERE}.least_squares",
    takes=(*_DIRECTED, LEARNED_DIRECTIONS, FULL_RANK),
    needs=(CHANNELWISE,),
    has_curve=True,
)
"""The method of an edit that names no method. docs/bench.md says how it was chosen."""
_CLOSED_FORM = register_method(
    "closed-form",
    ClosedForm,
    f"{_HERE}.least_squares",
    takes=_DIRECTED,
    needs=(LINEAR,),
)
REFLECTIONS = register_method("low-rank", LowRank, f"{_HERE}.low_rank", takes=(RANK, OBSERVE))
"""The method of the paper's reflection experiment (section 5.3)."""
register_method("layer", OneLayer, f"{_HERE}.one_layer", takes=(OBSERVE,))
register_method("all-weights", AllWeights, f"{_HERE}.all_weights", needs=(OUTPUTS,))
register_method(
    "null-space",
    NullSpace,
    f"{_HERE}.null_space",
    takes=(RANK, CONTEXT, PRESERVE),
    needs=(LINEAR, MATRIX),
)
register_method("ablate", Ablate, f"{_HERE}.ablate", takes=(CONTEXT,), needs=(ERASED_UNITS,))


def method_of(settings: Settings) -> Method:
    """The method that these settings belong to."""
    return METHODS[settings.method]


def methods_taking(field: str) -> list[str]:
    """The names of the methods that take a field of an edit."""
    return [name for name, method in METHODS.items() if field in method.takes]


def methods_setting(setting: str) -> list[str]:
    """The names of the methods that have a setting."""
    return [name for name, method in METHODS.items() if setting in method.settings.model_fields]


def methods_with_a_curve() -> list[str]:
    """The names of the methods that trade the loss against the collateral."""
    return [name for name, method in METHODS.items() if method.has_curve]


def suggest_method(*, linear: bool) -> Method:
    """Suggest the method of a new edit, of a layer that is `linear` or is not."""
    return _CLOSED_FORM if linear else DEFAULT_METHOD


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Make settings from plain values, ``method`` among them.

    Raises `KeyError` for an unknown method, and pydantic's `ValidationError` for values that do not
    fit.
    """
    return METHODS[values["method"]].settings.model_validate(dict(values))
