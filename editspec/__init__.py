"""editspec: a declarative edit-spec compiler for generative models.

The functions are those of the command line, by the same names. Importing this package imports no torch; the first
call of `compile`, `build`, `apply`, `render` or `statistics` does.
"""

from typing import TYPE_CHECKING, Any

from editspec_compiler import LoadedSpec, SpecError, load
from editspec_runtime import __version__
from editspec_runtime.errors import EditError

if TYPE_CHECKING:
    from editspec.workflow import apply, build, compile, render, statistics
    from editspec_runtime.families.module.source import allow_code

__all__ = [
    "EditError", "LoadedSpec", "SpecError", "__version__", "allow_code", "apply", "build", "compile", "load", "render",
    "statistics",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "allow_code":
        from editspec_runtime.families.module import source

        return source.allow_code
    if name in __all__:
        from editspec import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
