"""Answers, errors and progress, as the command line prints them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from editspec.engine.failures import error_dict, error_text
from editspec.engine.result import FAILED, INTERRUPTED, WRONG_USE, CommandResult
from editspec_compiler.problems import SpecError
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import MORE_MEMORY, EditError, UsageError, is_out_of_memory

NO_MEMORY = "This does not fit into memory."

PLAIN_SECONDS = 5.0
"""How often a line of progress is written where there is no terminal."""


@contextmanager
def running(as_json: bool, debug: bool, threads: int | None = None) -> Iterator[ProgressCallback]:
    """Within this a command runs: its errors are printed, and its progress is shown."""
    with report_errors(as_json, debug), show_progress() as progress:
        _set_threads(threads)
        yield progress


def answer(result: CommandResult, as_json: bool) -> None:
    """Print a result, and leave with its exit code."""
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    elif sys.stdout.isatty():
        typer.echo(result.to_terminal(shutil.get_terminal_size().columns))
    else:
        typer.echo(result.to_text())
    leave(result.exit_code)


def leave(code: int) -> None:
    """Leave with an exit code, unless all is well."""
    if code:
        raise typer.Exit(code)


def fail(text: str, content: dict[str, Any], as_json: bool, code: int) -> NoReturn:
    """Print a failure on stderr, with `as_json` on stdout, too, and leave with an exit code."""
    typer.echo(text, err=True)
    if as_json:
        typer.echo(json.dumps(content))
    raise typer.Exit(code)


@contextmanager
def report_errors(as_json: bool, debug: bool) -> Iterator[None]:
    """Print errors as people can use them, and leave with the exit code of their kind."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        fail("interrupted", {"error": {"message": "interrupted"}}, as_json, INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        text, content = _describe(error)
        wrong_use = isinstance(error, (SpecError, UsageError))
        fail(text, {"error": content}, as_json, WRONG_USE if wrong_use else FAILED)


def _describe(error: Exception) -> tuple[str, dict[str, Any]]:
    """An error as text and as plain values."""
    if isinstance(error, (SpecError, EditError)):
        return error_text(error), error_dict(error)
    if isinstance(error, OSError):
        return f"error: {error}", {"message": str(error)}
    if is_out_of_memory(error):
        return f"error: {NO_MEMORY}\n  {MORE_MEMORY}", {"message": NO_MEMORY, "hint": MORE_MEMORY}
    message = f"{type(error).__name__}: {error}"
    defect = "This is a defect of editspec; --debug shows where. Please report it."
    return f"error: {message}\n  {defect}", {"message": message}


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """A callback that draws bars on a terminal, and elsewhere writes a line now and then."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield progress


def _plain_lines() -> ProgressCallback:
    """A callback of one line at the start and end of a task, and now and then between."""
    last: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(what, -PLAIN_SECONDS) >= PLAIN_SECONDS:
            last[what] = now
            typer.echo(f"{what}: {done}/{total}", err=True)

    return progress


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
