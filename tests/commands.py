"""Commands as the tests run them: in this process, with what they print."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import typer.testing
from typer.main import get_command
from typer.testing import CliRunner, Result

from editspec.cli.main import app

# All commands with their options are made anew for each run, which takes longer than many of them.
typer.testing._get_command = cache(get_command)


def run(*arguments: object) -> Result:
    """A command and how it ended."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(*arguments: object, code: int = 0) -> Any:
    """The one JSON object that a command prints on stdout, and its exit code is `code`."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their paths in it."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
