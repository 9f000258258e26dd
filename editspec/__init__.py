"""editspec: a declarative edit-spec compiler for generative models.

The functions are those of the command line, by the same names. Importing this package imports
neither the compiler nor torch; the first use of `load` imports the one, that of `compile`, `build`,
`apply`, `render` or `statistics` both.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from editspec.worlds import register_worlds
from editspec_runtime import __version__
from editspec_runtime.errors import EditError

if TYPE_CHECKING:
    from editspec.commands.apply import apply
    from editspec.commands.build import build
    from editspec.commands.compile import compile
    from editspec.commands.render import render
    from editspec.commands.statistics import statistics
    from editspec_compiler import LoadedSpec, SpecError, load
    from editspec_runtime.families.torch_module.source import allow_code

register_worlds()

__all__ = [
    "EditError",
    "LoadedSpec",
    "SpecError",
    "__version__",
    "allow_code",
    "apply",
    "build",
    "compile",
    "load",
    "render",
    "statistics",
]

_FROM = {
    "allow_code": "editspec_runtime.families.torch_module.source",
    **dict.fromkeys(("LoadedSpec", "SpecError", "load"), "editspec_compiler"),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_FROM.get(name, f"editspec.commands.{name}")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
