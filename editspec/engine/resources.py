"""What a command works with, besides its arguments: a cache, an executor, the permission to run
code. Imports no torch.

Everything below takes these as arguments; here the front door finds those that nobody gave.
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
    """What a command works with.

    Attributes
    ----------
    cache
        Where results and downloads are kept. Default: `default_cache`.
    executor
        What computes independent items of work. Default: the one of `use_executor`, or this
        process.
    allow_code
        Whether foreign code that a spec names may run. Default: whether `allow_code` says so.
    """

    cache: Cache = field(default_factory=default_cache)
    executor: Executor = field(default_factory=lambda: _executor.get() or InProcess())
    allow_code: bool = field(default_factory=lambda: _code.get())


@contextmanager
def allow_code() -> Iterator[None]:
    """Within this, commands may import ``model.module``: foreign code runs, with all that its user
    may do.
    """
    token = _code.set(True)
    try:
        yield
    finally:
        _code.reset(token)


def code_is_allowed() -> bool:
    """Whether foreign code may run where nothing else is said."""
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
    """The file that ``weights:`` or ``--model`` names, as `weights_path`.

    `cache` is where files from elsewhere are kept. Default: `default_cache`.
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
    """Within this, commands that are given no executor take this one."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)
