"""The compiler of editspec: spec text -> checked spec -> rule tensors.

`load` imports no torch; `resolve` does. Importing this package imports `problems` alone, so that
the command line starts without the language.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from editspec_compiler.problems import Problem, SpecError

if TYPE_CHECKING:
    from editspec_compiler.loaded_spec import LoadedSpec
    from editspec_compiler.references import load

__all__ = ["LoadedSpec", "Problem", "SpecError", "load"]

LATER = {"LoadedSpec": "loaded_spec", "load": "references"}
"""The modules of the names that are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
