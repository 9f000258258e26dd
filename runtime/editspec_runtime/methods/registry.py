"""The registry of methods, one entry each. Imports no torch.

A new method is a class of settings and an entry here, and a file beside this one that defines
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
    LINEAR,
    OBSERVE,
    OUTPUTS,
    RANK,
    Method,
    Settings,
)

Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]

COLLATERAL_WEIGHT = 0.02
"""The collateral weight of least squares where a spec gives none. docs/bench.md says how it was
chosen.
"""


class ProjectedGradient(Settings):
    """Adam on the weight, projected into the directions every few steps (paper section 3.4)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")
    project_every: Count = Field(10, description="Steps between two projections.")
    project_gradient: bool = Field(
        False, description="Project every gradient, too (paper section 5.2)."
    )

    def hint(self) -> str:
        """A lower rate, more projections, or more directions."""
        return "Lower solver.learning_rate, set project_every: 1, raise the rank"


class Direct(Settings):
    """Adam on the coefficients of the directions (paper Eqn. 17 and 18)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")


class LeastSquares(Settings):
    """Damped least squares on the coefficients, channel by channel, against the predicted
    collateral (Eqn. 4 to 6).
    """

    collateral: Number | None = Field(
        None, gt=0, description="A budget: tr(dW C dW^T) may be this share of tr(W C W^T)."
    )
    collateral_weight: Number | None = Field(
        COLLATERAL_WEIGHT,
        ge=0,
        description="The weight of the predicted collateral, where no budget is given.",
    )

    @model_validator(mode="before")
    @classmethod
    def _budget_instead(cls, given: Any) -> Any:
        if isinstance(given, dict) and "collateral" in given:
            return {"collateral_weight": None} | given
        return given

    def contradiction(self) -> tuple[str, str] | None:
        """A weight of the collateral and a budget of it at once, or neither."""
        if (self.collateral_weight is None) == (self.collateral is None):
            return "collateral", "give collateral_weight or collateral: one of the two"
        return None

    def hint(self) -> str:
        """A higher budget, or a lower weight of the collateral."""
        if self.collateral is not None:
            return "Raise solver.collateral"
        return "Lower solver.collateral_weight"


class ClosedForm(Settings):
    """Least squares in the directions, in closed form, for layers linear from key to value (paper
    Eqn. 14 and 15).
    """

    # The limit of least squares where the collateral has no price.
    collateral: ClassVar[None] = None
    collateral_weight: ClassVar[float] = 0.0


class LowRank(Settings):
    """Adam on the weight, whose change is cut to the rank by SVD every few steps (paper section
    5.3).
    """

    steps: Count = Field(10_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description="The rate of Adam.")
    project_every: Count = Field(10, description="Steps between two cuts.")


class OneLayer(Settings):
    """Adam on the whole weight of the layer, without directions (paper Eqn. 6)."""

    steps: Count = Field(2001, description="Steps of Adam.")
    learning_rate: Number = Field(0.05, gt=0, description="The rate of Adam.")


class AllWeights(Settings):
    """Adam on every weight of the generator, towards the composited image (paper Eqn. 3)."""

    steps: Count = Field(20_001, description="Steps of Adam.")
    learning_rate: Number = Field(0.01, gt=0, description="The rate of Adam.")


class Ablate(Settings):
    """The weights from the erased units are set to zero (GAN Dissection)."""


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
    """Enter a method. Its settings get ``method``, which has to be `name`."""
    literal: Any = Literal[name]
    named = create_model(
        settings.__name__,
        __base__=settings,
        __module__=settings.__module__,
        __doc__=settings.__doc__,
        method=(literal, Field(description="The solver.")),
    )
    # Its class has the name of another one in this module, by which pickle would look for it.
    setattr(named, "__reduce__", _reduce_settings)  # noqa: B010 - mypy takes no assignment
    method = Method(name, named, module, frozenset(takes), frozenset(needs), has_curve)
    METHODS[name] = method
    return method


_DIRECTED = (RANK, CONTEXT, DIRECTIONS)
_HERE = "editspec_runtime.methods"

DEFAULT_METHOD = register_method(
    "projected-gradient",
    ProjectedGradient,
    f"{_HERE}.projected_gradient",
    takes=(*_DIRECTED, OBSERVE),
)
"""The method of an edit that names none."""
register_method("direct", Direct, f"{_HERE}.direct", takes=(*_DIRECTED, OBSERVE))
_LEAST_SQUARES = register_method(
    "least-squares",
    LeastSquares,
    f"{_HERE}.least_squares",
    takes=_DIRECTED,
    needs=(CHANNELWISE,),
    has_curve=True,
)
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
register_method("ablate", Ablate, f"{_HERE}.ablate", takes=(CONTEXT,), needs=(ERASED_UNITS,))


def method_of(settings: Settings) -> Method:
    """The method whose settings these are."""
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
    """The method that a new edit starts with, of a layer that is `linear` or is not."""
    return _CLOSED_FORM if linear else _LEAST_SQUARES


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Settings from plain values, ``method`` among them.

    Raises `KeyError` for a method that there is not, and pydantic's `ValidationError` for values
    that do not fit.
    """
    return METHODS[values["method"]].settings.model_validate(dict(values))
