"""Errors as text and as plain values. Imports no torch."""

from __future__ import annotations

from typing import Any

from editspec.engine.result import FAILED, WRONG_USE
from editspec_compiler import SpecError
from editspec_runtime.errors import EditError, UsageError, WrongPath


def error_text(error: SpecError | EditError) -> str:
    """The error for people."""
    # A SpecError already names the place of each of its problems.
    return str(error) if isinstance(error, SpecError) else f"error: {error}"


def error_code(error: Exception) -> int:
    """The exit code of an error: whether the spec or the command line is wrong, or all else."""
    wrong = isinstance(error, (SpecError, UsageError, WrongPath))
    return WRONG_USE if wrong else FAILED


def error_dict(error: SpecError | EditError) -> dict[str, Any]:
    """The error as plain values."""
    return error.as_json()
