"""The source of a network: a factory in foreign code, which needs permission."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from editspec_runtime.core.fields import FieldError
from editspec_runtime.errors import CodeError, FileError, WeightsError
from editspec_runtime.families.torch_module.signatures import require_arguments
from editspec_runtime.io.digests import digest
from editspec_runtime.io.foreign_code import import_attribute, require_permission


@dataclass(frozen=True)
class Points:
    """The modules at which a layer begins and ends.

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
    inputs
        The inputs besides the latent that every image gets, by name, as the spec says them.
    remake
        Makes module and code again, in another process of the same run.
    """

    module: nn.Module
    code: str
    points: Mapping[str, Points] = field(default_factory=dict)
    latent_shape: tuple[int, ...] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    remake: Callable[[], tuple[nn.Module, str]] | None = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle the way to make the network, and not the network."""
        # In another process the class of the module may not be importable.
        if self.remake is None:
            return super().__reduce__()
        said = (self.points, self.latent_shape, self.inputs)
        return _remake_source, (self.remake, self.code, *said)


def _remake_source(
    remake: Callable[[], tuple[nn.Module, str]],
    code: str,
    points: Mapping[str, Points],
    latent_shape: tuple[int, ...] | None,
    inputs: Mapping[str, Any],
) -> Source:
    """Make a source of the first process of a run again, in another one.

    Raises `CodeError` where the code differs.
    """
    # The permission to run code is part of `remake`.
    module, found = remake()
    if found != code:
        raise CodeError(
            "The code of the network is another here than in the first process of the run.",
            "Have the same files in the folder of the spec on every machine.",
        )
    return Source(module, code, points, latent_shape, inputs, remake)


def run_factory(
    name: str,
    folder: Path,
    arguments: Mapping[str, Any] | None = None,
    *,
    allow_code: bool = False,
) -> tuple[nn.Module, str]:
    """Make the network of ``package.module:factory``, and the digest of its code.

    The digest is that of the factory's file, its name and its arguments.

    Modules are looked for as `import_attribute` does, in `folder` first.

    Parameters
    ----------
    name
        The factory.
    folder
        The folder of the spec.
    arguments
        The arguments that the factory is called with, by name. Default: none.
    allow_code
        Whether foreign code may run, with all that its user may do.

    Raises
    ------
    CodeError
        Foreign code is not allowed.
    FieldError
        The factory takes other arguments.
    FileError
        The factory cannot be imported, or fails.
    WeightsError
        The factory makes something other than a network.
    """
    instead = "A file of torch.export (weights: network.pt2) needs no code."
    require_permission(name, allow_code=allow_code, instead=instead)
    given = dict(arguments or {})
    try:
        factory = import_attribute(name, folder)
        require_arguments(name, factory, given)
        network = factory(**given)
    except FieldError:
        raise
    except Exception as error:  # foreign code may raise anything
        # The user's own code failed, and its own words are what the user can act on.
        raise FileError(
            f"{name} cannot be used: {type(error).__name__}: {error}.",
            "It is imported from the folder of the spec or from what is installed, and called "
            "with model.arguments.",
        ) from error
    if not isinstance(network, nn.Module):
        raise WeightsError(
            f"{name} makes a {type(network).__name__}, expected a torch.nn.Module.",
            "Name a class of modules, or a function that returns one.",
        )
    source = inspect.getsourcefile(inspect.unwrap(factory))
    code = Path(source).read_bytes() if source else name.encode()
    attribute = name.partition(":")[2]
    said = {"factory": attribute, "arguments": given, "file": hashlib.sha256(code).hexdigest()}
    return network.eval(), digest(said)
