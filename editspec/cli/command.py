"""The decorators that make commands: the options that all share, answers and errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypedDict

from editspec.cli.options import AllowCode, Cluster, Debug, Device, Json, Quiet, Threads, Workers
from editspec.cli.output import answer, run_command
from editspec.cli.project import use_project
from editspec.cli.workers import use_workers
from editspec.engine.result import CommandResult
from editspec_runtime.core.progress import ProgressCallback

Options = dict[str, tuple[Any, Any]]
"""Options by the names of their arguments: the type with its declaration, and the default."""

TALK: Options = {"quiet": (Quiet, False), "debug": (Debug, False)}
"""The options of every command."""

ANSWER: Options = {"as_json": (Json, False), **TALK}
"""The options of every command that answers."""

CODE: Options = {"allow_code": (AllowCode, False)}
DEVICE: Options = {"device": (Device, "auto")}
THREADS: Options = {"threads": (Threads, None)}
WORKERS: Options = {"workers": (Workers, None), "cluster": (Cluster, None)}


class Work(TypedDict):
    """The arguments of every function that computes with a model."""

    device: str
    progress: ProgressCallback


class Progress(TypedDict):
    """The argument of functions that take a while without a model."""

    progress: ProgressCallback


def of_files(function: Callable[..., CommandResult]) -> Callable[..., None]:
    """Make a command of a function that reads and writes files, and returns a result.

    The function may take `work`, a `Progress`.
    """
    return _make_command(function, ANSWER)


def of_a_model(function: Callable[..., CommandResult]) -> Callable[..., None]:
    """Make a command of a function that computes with a model, and returns a result.

    The function takes `work`, a `Work`.
    """
    return _make_command(function, CODE | DEVICE | THREADS | ANSWER)


def of_workers(function: Callable[..., CommandResult]) -> Callable[..., None]:
    """Make a command as `of_a_model` whose work can be spread over processes.

    The function takes `work`, a `Work`.
    """
    return _make_command(function, CODE | DEVICE | THREADS | WORKERS | ANSWER)


def of_own_code(function: Callable[..., CommandResult]) -> Callable[..., None]:
    """Make a command as `of_workers` that computes with a model of the product alone.

    The function takes `work`, a `Work`.
    """
    return _make_command(function, DEVICE | THREADS | WORKERS | ANSWER)


def of_a_server(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function that serves until it is interrupted."""
    return _make_command(function, CODE | THREADS | TALK)


def _make_command(function: Callable[..., Any], shared: Options) -> Callable[..., None]:
    taken = inspect.signature(function, eval_str=True).parameters
    own = [parameter for name, parameter in taken.items() if name != "work"]

    def command(**given: Any) -> None:
        as_json = given.pop("as_json", False)
        debug, quiet = given.pop("debug"), given.pop("quiet")
        threads = given.pop("threads", None)
        workers, cluster = given.pop("workers", None), given.pop("cluster", None)
        if "allow_code" not in taken:  # which took effect when it was parsed
            given.pop("allow_code", None)
        with (
            run_command(as_json, debug, quiet=quiet) as progress,
            use_project(threads, computes="threads" in shared),
            use_workers(workers, cluster) if "workers" in shared else nullcontext(),
        ):
            if "work" in taken:
                work = {"device": given.pop("device")} if "device" in given else {}
                given["work"] = {**work, "progress": progress}
            result = function(**given)
            if result is not None:
                answer(result, as_json)

    parameters = [*own, *(_parameter(name, *option) for name, option in shared.items())]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
