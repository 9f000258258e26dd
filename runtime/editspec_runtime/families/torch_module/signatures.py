"""What factories and networks take, and what they are given."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from editspec_runtime.core.fields import FieldError

STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
"""How parameters are written that take any number of arguments."""


def require_arguments(name: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise a `FieldError` where a factory needs other arguments than are given.

    The message names what is missing and what is unknown, and the hint what the factory takes.
    """
    found = find_misfits(factory, given)
    if found is None:
        return
    missing, unknown, signature = found
    parts = []
    if missing:
        parts.append(f"needs {', '.join(missing)}")
    if unknown:
        parts.append(f"takes no {', '.join(unknown)}")
    hint = (
        f"it takes {name.rpartition(':')[2]}({signature}); write them in a spec, as "
        "model.arguments: {name: value}"
    )
    raise FieldError(("arguments",), f"{name} {' and '.join(parts)}", hint)


def find_misfits(
    function: Callable[..., Any], given: Mapping[str, Any], places: int = 0
) -> tuple[list[str], list[str], str] | None:
    """Find the arguments that a function lacks, and those that it does not take.

    Parameters
    ----------
    function
        The function, or the class.
    given
        The arguments by name.
    places
        The number of arguments that are given by position besides these.

    Returns
    -------
    tuple
        The names that are missing, the names that are unknown, and what the function takes. None
        where all fit, or where nothing tells what the function takes.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter
    named = [
        each for each in parameters if each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    takes_any = any(each.kind == kinds.VAR_KEYWORD for each in parameters)
    named = named[places:]
    missing = [
        each.name for each in named if each.default is kinds.empty and each.name not in given
    ]
    known = {each.name for each in named if each.kind != kinds.POSITIONAL_ONLY}
    unknown = [] if takes_any else [name for name in given if name not in known]
    if not missing and not unknown:
        return None
    return missing, unknown, ", ".join(map(_say_parameter, parameters))


def _say_parameter(parameter: inspect.Parameter) -> str:
    """Say a parameter by its name and, where plain, its default."""
    name: str = STARS.get(parameter.kind, "") + parameter.name
    if parameter.default is inspect.Parameter.empty:
        return name
    plain = isinstance(parameter.default, bool | int | float | str)
    return f"{name}={json.dumps(parameter.default) if plain else '…'}"


def require_inputs(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Raise a `FieldError` where a network needs other inputs besides the latent."""
    found = find_misfits(module.forward, given, places=1)
    if found is None:
        return
    missing, unknown, signature = found
    network = type(module).__name__
    if missing:
        message = f"{network} draws an image of more than a latent: {', '.join(missing)} is missing"
        hint = (
            f"it takes {signature}; write model.inputs: {{{missing[0]}: …}}, a number or a list of "
            "numbers that every image gets, such as a label"
        )
        raise FieldError(("inputs",), message, hint)
    message = f"{network} takes no {', '.join(unknown)}"
    raise FieldError(("inputs",), message, f"it takes {signature}")
