"""Answers, errors and progress, as the command line prints them."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import typer

from editspec.engine.failures import error_code, error_dict, error_text
from editspec.engine.result import INTERRUPTED, CommandResult
from editspec.views.text import visible_lines
from editspec_compiler.problems import SpecError, visible
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import (
    MORE_MEMORY,
    EditError,
    FileError,
    OutOfMemory,
    is_out_of_memory,
)

NO_MEMORY = "This does not fit into memory."

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What sets a colour on a terminal, and nothing else."""

DEFECT = "This is a defect of editspec; --debug shows where. Please report it."

PLAIN_SECONDS = 5.0
"""The least seconds between two lines of progress of a task where there is no terminal."""

PLAIN_LINES = 10
"""The most lines of progress of a task where there is no terminal."""


@contextmanager
def run_command(as_json: bool, debug: bool, *, quiet: bool = False) -> Iterator[ProgressCallback]:
    """A context in which a command runs: errors are printed, and progress unless `quiet`."""
    shown = nullcontext(no_progress) if quiet else show_progress()
    with report_errors(as_json, debug), shown as progress:
        yield progress


def answer(result: CommandResult, as_json: bool) -> None:
    """Print a result, and leave with its exit code."""
    if result.is_failure:
        fail(result.to_text(), result.to_dict(), as_json, result.exit_code)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    elif sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        coloured = type(result).to_terminal is not CommandResult.to_terminal
        show = keep_colours if coloured else visible_lines
        typer.echo(show(result.to_terminal(width)))
    else:
        typer.echo(visible_lines(result.to_text()))
    leave(result.exit_code)


def keep_colours(text: str) -> str:
    """Make all visible but the ends of lines and the colours of results.

    Results escape what they quote themselves where they colour.
    """
    parts = COLOUR.split(text)
    colours = [*COLOUR.findall(text), ""]
    return "".join(
        visible_lines(part) + colour for part, colour in zip(parts, colours, strict=True)
    )


def leave(code: int) -> None:
    """Leave with an exit code, unless all is well."""
    if code:
        raise typer.Exit(code)


def fail(text: str, content: dict[str, Any], as_json: bool, code: int) -> NoReturn:
    """Print a failure on stderr, and leave with an exit code.

    With `as_json` its `content` is printed on stdout as well.
    """
    typer.echo(visible_lines(text), err=True)
    if as_json:
        typer.echo(json.dumps(content))
    raise typer.Exit(code)


@contextmanager
def report_errors(as_json: bool, debug: bool) -> Iterator[None]:
    """A context that prints errors and leaves with their exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        fail("interrupted", {"error": {"message": "interrupted"}}, as_json, INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        text, content = _describe(error)
        fail(text, {"error": content}, as_json, error_code(error))


def _describe(error: Exception) -> tuple[str, dict[str, Any]]:
    """An error as text and as plain values."""
    if isinstance(error, (SpecError, EditError)):
        return error_text(error), error_dict(error)
    known = _translate(error)
    return error_text(known), error_dict(known)


def _translate(error: Exception) -> EditError:
    """An error of Python or of a library as an error with a code and a hint."""
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return FileError(
            f"{error.filename or 'A file'} cannot be used: {reason.lower()}.",
            "Check its name, who may use it, and the space on its disk.",
        )
    if is_out_of_memory(error):
        return OutOfMemory(NO_MEMORY, MORE_MEMORY)
    return EditError(f"{type(error).__name__}: {error}", DEFECT)


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """A context with a callback that draws bars on a terminal, or else writes lines."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            """Move the bar of a task."""
            if what not in tasks:
                tasks[what] = bars.add_task(escape(visible(what)), total=total)
            bars.update(tasks[what], completed=done)

        yield progress


def _plain_lines() -> ProgressCallback:
    """A callback that writes a line at the start and end of a task, and some between."""
    written: dict[str, tuple[int, float]] = {}

    def progress(what: str, done: int, total: int) -> None:
        """Write a line, unless the task has gone on too little since its last line."""
        now, part = time.monotonic(), done * (PLAIN_LINES - 1) // max(total, 1)
        last_part, last_time = written.get(what, (-1, -PLAIN_SECONDS))
        if part < last_part:  # the task begins anew
            last_part = -1
            written[what] = last_part, last_time
        is_due = now - last_time >= PLAIN_SECONDS or done >= total
        if part > last_part and is_due:
            written[what] = part, now
            typer.echo(f"{visible(what)}: {done}/{total}", err=True)

    return progress
