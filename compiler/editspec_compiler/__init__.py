"""The compiler of editspec: spec text -> checked spec -> rule tensors.

`load` imports no torch; `resolve` does. Importing this package imports `problems` alone, so that
the command line starts without the language.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from editspec_compiler.problems import Problem, SpecError

if TYPE_CHECKING:
    from editspec_compiler.references import LoadedSpec, load

__all__ = ["LoadedSpec", "Problem", "SpecError", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("editspec_compiler.references"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
