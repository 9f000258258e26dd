"""Commands as the tests run them: ours in this process with what they print, and those of git."""

from __future__ import annotations

import json
import subprocess
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


def git(folder: Path, *arguments: str) -> str:
    """What a command of git prints in a folder, as a user whom the machine need not know."""
    settings = ("user.name=test", "user.email=test@localhost", "init.defaultBranch=main")
    options = [option for setting in settings for option in ("-c", setting)]
    command = ["git", *options, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their paths in it."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
