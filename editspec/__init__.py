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

__all__ = [
    "EditError", "LoadedSpec", "SpecError", "__version__", "apply", "build", "compile", "load", "render", "statistics",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        from editspec import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
