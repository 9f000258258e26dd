"""Mistakes of the command line, in the words of all other errors."""

from __future__ import annotations

from typing import Any

import typer

from editspec_runtime.errors import UsageError

Mistake: Any = typer.BadParameter.__base__
"""What typer raises where a command line is wrong. It has no public name."""

NUMBERS = {"N": "a whole number", "X": "a number"}
"""What an option takes, by the word for it in ``--help``."""


def describe_mistake(mistake: Any) -> UsageError:
    """A wrong command line as an error with a hint."""
    context = mistake.ctx
    path = "editspec" if context is None else context.command_path
    return UsageError(_message(mistake), f"{path} --help lists what it takes.")


def _message(mistake: Any) -> str:
    parameter = getattr(mistake, "param", None)
    if parameter is None:
        message: str = mistake.format_message().replace("'", "")
        return message if message.endswith((".", "?")) else f"{message}."
    names = "/".join(parameter.opts)
    if parameter.param_type_name == "argument":
        names = str(parameter.metavar).removesuffix("...")
    if type(mistake).__name__ == "MissingParameter":
        return f"{names} is missing."
    return f"{names} takes {_expected(parameter)}."


def _expected(parameter: Any) -> str:
    """What a parameter takes, with its bounds."""
    words = NUMBERS.get(parameter.metavar, str(parameter.metavar))
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is not None:
        words += f" from {low}"
    if high is not None:
        words += f" to {high}"
    return words
