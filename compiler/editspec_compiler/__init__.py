"""The compiler of editspec: spec text -> checked spec -> rule tensors. `load` imports no torch; `resolve` does."""

from editspec_compiler.errors import Problem, SpecError
from editspec_compiler.references import LoadedSpec, load
from editspec_compiler.schema import Spec

__all__ = ["LoadedSpec", "Problem", "Spec", "SpecError", "load"]
