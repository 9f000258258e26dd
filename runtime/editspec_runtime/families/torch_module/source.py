"""Where the network of the family ``torch`` comes from: a factory in foreign code, which has to be
allowed.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from editspec_runtime.errors import CodeError, FileError, WeightsError

_allowed: ContextVar[bool] = ContextVar("allowed", default=False)


@contextmanager
def allow_code() -> Iterator[None]:
    """Within this, ``model.module`` may be imported: code of others runs, with all that you may
    do.
    """
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


@dataclass(frozen=True)
class Points:
    """Where a layer begins and ends.

    Attributes
    ----------
    key
        The module whose input is the key.
    value
        The module whose output is the value.
    parameter
        The edited weight, by its name in the checkpoint; its module takes the key.
    """

    key: str
    value: str
    parameter: str


@dataclass(frozen=True)
class Source:
    """A network without its weights.

    Attributes
    ----------
    module
        The network, in eval mode.
    code
        The digest of its code, or of its graph.
    points
        The layers that the spec declares, by name.
    latent_shape
        The shape of one latent as the network takes it, where the spec says it.
    remake
        Makes module and code again, in another process of the same run.
    """

    module: nn.Module
    code: str
    points: Mapping[str, Points] = field(default_factory=dict)
    latent_shape: tuple[int, ...] | None = None
    remake: Callable[[], tuple[nn.Module, str]] | None = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """For another process, where the module itself may not be importable: the way to make
        it.
        """
        if self.remake is None:
            return super().__reduce__()
        return _remade, (self.remake, self.code, self.points, self.latent_shape)


def _remade(
    remake: Callable[[], tuple[nn.Module, str]],
    code: str,
    points: Mapping[str, Points],
    latent_shape: tuple[int, ...] | None,
) -> Source:
    """A source as the first process of a run has it, whose code is allowed to run here as it is
    there.
    """
    with allow_code():
        module, found = remake()
    if found != code:
        raise CodeError(
            "The code of the network is another here than in the first process of the run."
        )
    return Source(module, code, points, latent_shape, remake)


def from_factory(name: str, folder: Path) -> tuple[nn.Module, str]:
    """The network that ``package.module:factory`` makes, and the digest of the file that the
    factory is in.

    Modules are looked for in `folder` first. Raises `CodeError` where foreign code is not allowed,
    `FileError` where it cannot be imported, `WeightsError` where the factory makes no network.
    """
    if not _allowed.get():
        raise CodeError(
            f"{name} is code that is not part of editspec, and importing it runs it with all that you may do.",
            "Read it, and give --allow-code if you trust it (in Python: with editspec.allow_code(): …). A file of "
            "torch.export (weights: network.pt2) needs no code.",
        )
    package, _, attribute = name.partition(":")
    # A module of the same name that another spec brought is not this one's.
    beside = any((folder / f"{package.partition('.')[0]}{end}").exists() for end in ("", ".py"))
    if beside and package in sys.modules and not _lies_in(sys.modules[package], folder):
        del sys.modules[package]
    sys.path.insert(0, str(folder.resolve()))
    try:
        importlib.invalidate_caches()
        factory = getattr(importlib.import_module(package), attribute)
        module = factory()
    except Exception as error:  # foreign code may raise anything
        raise FileError(
            f"{name} cannot be used: {type(error).__name__}: {error}.",
            "It is imported from the folder of the spec or from what is installed, and called without arguments.",
        ) from error
    finally:
        sys.path.remove(str(folder.resolve()))
    if not isinstance(module, nn.Module):
        raise WeightsError(f"{name} makes a {type(module).__name__}, expected a torch.nn.Module.")
    source = inspect.getsourcefile(inspect.unwrap(factory))
    code = Path(source).read_bytes() if source else name.encode()
    return module.eval(), hashlib.sha256(code).hexdigest()


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and folder.resolve() in Path(file).resolve().parents
