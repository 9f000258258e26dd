"""Commands as the tests run them: in this process, with what they print."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from editspec.cli.main import app


def run(*arguments: object) -> Result:
    """A command and how it ended."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(*arguments: object, code: int = 0) -> Any:
    """The one JSON object that a command prints on stdout, and its exit code is `code`."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)
