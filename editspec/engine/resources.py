"""The resources of a command, such as its cache. Imports no torch.

All layers below take them as arguments. Those that no caller gave are found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from editspec_runtime.core.executor import Executor, InProcess
from editspec_runtime.io.cache import Cache, default_cache
from editspec_runtime.io.places import weights_path

_code: ContextVar[bool] = ContextVar("code", default=False)
_executor: ContextVar[Executor | None] = ContextVar("executor", default=None)


@dataclass(frozen=True)
class Resources:
    """The resources of a command.

    Attributes
    ----------
    cache
        The cache of results and downloads. Default: `default_cache`.
    executor
        The executor of independent items of work. Default: the one of `use_executor`, or this
        process.
    allow_code
        Whether foreign code that a spec names may run. Default: only within `allow_code`.
    """

    cache: Cache = field(default_factory=default_cache)
    executor: Executor = field(default_factory=lambda: _executor.get() or InProcess())
    allow_code: bool = field(default_factory=lambda: _code.get())


@contextmanager
def allow_code() -> Iterator[None]:
    """A context in which commands may import ``model.module`` of a spec.

    Foreign code then runs with all the rights of the user.
    """
    token = _code.set(True)
    try:
        yield
    finally:
        _code.reset(token)


def is_code_allowed() -> bool:
    """Whether foreign code may run where the caller does not say so itself."""
    return _code.get()


def locate_weights(
    weights: str | Path,
    folder: Path = Path(),
    *,
    cache: Cache | None = None,
    pin: str | None = None,
    fetching: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """The path of the file that ``weights:`` or ``--model`` names.

    `cache` keeps files that are fetched. Default: `default_cache`. All else is as in
    `weights_path`.
    """
    return weights_path(
        str(weights),
        folder,
        cache=cache or default_cache(),
        pin=pin,
        fetching=fetching,
        progress=progress,
    )


@contextmanager
def use_executor(executor: Executor) -> Iterator[None]:
    """A context in which commands take this executor where they are given none."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)
