"""Functions of foreign code that checks of a spec call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from editspec_runtime.errors import FileError
from editspec_runtime.io.foreign_code import import_attribute, require_permission


def import_function(name: str, folder: Path, *, allow_code: bool) -> Callable[..., Any]:
    """Import the function ``package.module:name``, for which `folder` is searched first.

    Raises
    ------
    CodeError
        Foreign code is not allowed.
    FileError
        The function cannot be imported, or is none.
    """
    require_permission(name, allow_code=allow_code)
    hint = "It is imported from the folder of the spec or from what is installed."
    try:
        function = import_attribute(name, folder)
    except Exception as error:  # foreign code may raise anything
        # The user's own code failed, and its own words are what the user can act on.
        message = f"{name} cannot be used: {type(error).__name__}: {error}."
        raise FileError(message, hint) from error
    if not callable(function):
        raise FileError(f"{name} is not a function.", "Name a function of the module.")
    found: Callable[..., Any] = function
    return found
