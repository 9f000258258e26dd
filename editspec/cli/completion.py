"""Scripts that complete commands and options in a shell."""

from __future__ import annotations

import os

from editspec_runtime.errors import UsageError

SHELLS = ("bash", "zsh", "fish")

NAME, VARIABLE = "editspec", "_EDITSPEC_COMPLETE"
"""The program that a script completes for, and the variable by which it asks that program."""


def completion_script(shell: str) -> str:
    """The script that makes a shell complete commands and options.

    Raises
    ------
    UsageError
        The shell has no script.
    """
    # Here, as no other command line needs it.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise UsageError(
            f"There is no completion for {shell}.", f"Give one of {', '.join(SHELLS)}."
        )
    return str(get_completion_script(prog_name=NAME, complete_var=VARIABLE, shell=shell))


def enable_completion() -> None:
    """Let the program answer a script, where a script asks."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
