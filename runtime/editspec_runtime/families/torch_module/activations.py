"""What may belong to a layer behind its weight: normalisations, rectifiers, and what passes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """torch's batch normalisation for any number of axes: a graph does not tell the number."""

    def _check_input_dim(self, input: Tensor) -> None:
        return None


class InstanceNorm(nn.InstanceNorm2d):
    """torch's normalisation of instances for any number of axes behind the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise every channel of every item by its own statistics."""
        return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
"""Torch's own normalisations."""

RECTIFIERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.RReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Hardswish,
)
"""Torch's own rectifiers and their smooth kin: without bound above, and flat or bent below."""

PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
"""The modules that hand on what they are given, in eval mode."""

NORMALISATION, RECTIFIER, PASSES = "normalisation", "rectifier", "passes"

aten = torch.ops.aten


def _make_clamped(arguments: Mapping[str, Any]) -> nn.Module | None:
    """Make the rectifier that a clamp from zero upwards is; None for any other clamp."""
    low, high = arguments.get("min"), arguments.get("max")
    is_zero = isinstance(low, int | float) and low == 0
    return nn.ReLU() if is_zero and high is None else None


def _maker(kind: type[nn.Module]) -> Callable[[Mapping[str, Any]], nn.Module | None]:
    """The maker of a module whose arguments are named as those of the function."""

    def make(arguments: Mapping[str, Any]) -> nn.Module | None:
        plain = all(isinstance(each, bool | int | float | str) for each in arguments.values())
        return kind(**arguments) if plain else None

    return make


Maker = tuple[Sequence[str], Callable[[Mapping[str, Any]], nn.Module | None]]
"""The names of a function's arguments behind the first, and what makes the module."""


def _list_functions() -> dict[Any, Maker]:
    """List the functions that are rectifiers, each with the maker of its module."""
    table: tuple[tuple[Sequence[Any], Sequence[str], Any], ...] = (
        (
            (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, aten.relu.default,
             aten.relu_.default),
            (),
            _maker(nn.ReLU),
        ),
        ((F.relu6, aten.relu6.default, aten.relu6_.default), (), _maker(nn.ReLU6)),
        (
            (F.leaky_relu, F.leaky_relu_, aten.leaky_relu.default, aten.leaky_relu_.default),
            ("negative_slope",),
            _maker(nn.LeakyReLU),
        ),
        ((F.elu, F.elu_, aten.elu.default, aten.elu_.default), ("alpha",), _maker(nn.ELU)),
        ((F.celu, F.celu_, aten.celu.default, aten.celu_.default), ("alpha",), _maker(nn.CELU)),
        ((F.selu, F.selu_, torch.selu, torch.selu_, aten.selu.default), (), _maker(nn.SELU)),
        ((F.gelu, aten.gelu.default), ("approximate",), _maker(nn.GELU)),
        ((F.silu, aten.silu.default, aten.silu_.default), (), _maker(nn.SiLU)),
        ((F.mish, aten.mish.default, aten.mish_.default), (), _maker(nn.Mish)),
        ((F.softplus, aten.softplus.default), ("beta", "threshold"), _maker(nn.Softplus)),
        (
            (F.hardswish, aten.hardswish.default, aten.hardswish_.default),
            (),
            _maker(nn.Hardswish),
        ),
        (
            (torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_, torch.clamp_min,
             Tensor.clamp_min, Tensor.clamp_min_, aten.clamp.default, aten.clamp_min.default),
            ("min", "max"),
            _make_clamped,
        ),
    )  # fmt: skip
    return {function: (names, make) for functions, names, make in table for function in functions}


FUNCTIONS = _list_functions()


def find_rectifier(
    function: Any, arguments: Sequence[Any], named: Mapping[str, Any]
) -> nn.Module | None:
    """Make the rectifier that does what a call of a function does.

    Parameters
    ----------
    function
        The function, as torch hands it to a function mode.
    arguments, named
        The arguments behind the first, by position and by name.

    Returns
    -------
    nn.Module | None
        None where the function is not known as a rectifier.
    """
    if function not in FUNCTIONS:
        return None
    names, make = FUNCTIONS[function]
    given = dict(named)
    # A choice of how, not of what.
    given.pop("inplace", None)
    positions = [each for each in arguments if not isinstance(each, bool)]
    given |= dict(zip(names, positions, strict=False))
    if len(positions) > len(names) or not set(given) <= set(names):
        return None
    return make(given)


def kind_of(module: nn.Module) -> str | None:
    """The kind of a module that may belong to a layer; None for any other.

    A class made from torch's own counts only with torch's own computation.
    """
    for kind, classes in (
        (NORMALISATION, NORMALISATIONS),
        (RECTIFIER, RECTIFIERS),
        (PASSES, PASSING),
    ):
        if any(
            type(module).forward is each.forward for each in classes if isinstance(module, each)
        ):
            # By the statistics of a batch, an image would depend on its neighbours.
            by_batch = kind == NORMALISATION and _normalises_by_batch(module)
            return None if by_batch else kind
    return None


def _normalises_by_batch(module: nn.Module) -> bool:
    batch = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return batch and module.running_var is None
