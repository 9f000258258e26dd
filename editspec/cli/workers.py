"""The workers that compute besides the process of a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from editspec_compiler.problems import visible


@contextmanager
def use_workers(workers: int | None, cluster: str | None) -> Iterator[None]:
    """A context in which a command spreads its work.

    Parameters
    ----------
    workers
        The number of processes of this machine; None where the command line does not say.
    cluster
        The cluster that the command line names; None where there is none.
    """
    # Here, as --help needs neither.
    from editspec.engine.resources import use_executor
    from editspec.engine.result import count_of
    from editspec_runtime.executors.registry import open_executor

    with open_executor(workers, cluster) as executor, use_executor(executor):
        dashboard = getattr(executor, "dashboard", "")
        if dashboard and sys.stderr.isatty():
            typer.echo(f"{count_of(executor.workers, 'worker')}: {visible(dashboard)}", err=True)
        yield
