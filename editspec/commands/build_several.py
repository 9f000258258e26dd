"""Many specs built by one ``editspec build``, those that are selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.failures import error_code, error_dict, error_text
from editspec.engine.result import DONE, CommandResult, count_of
from editspec.engine.selection import expand_specs, parse_selection
from editspec_compiler import SpecError
from editspec_runtime.core.progress import ProgressCallback
from editspec_runtime.errors import EditError, UsageError


@dataclass(frozen=True)
class BuiltSpec:
    """One of many specs.

    Attributes
    ----------
    spec
        The path of the spec.
    result
        Its build; None where there was an error.
    error
        The error that ended its build; None where there was none.
    """

    spec: Path
    result: CommandResult | None = None
    error: SpecError | EditError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code that the spec alone would give."""
        if self.error is not None:
            return error_code(self.error)
        return DONE if self.result is None else self.result.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The spec with its build or its error, as plain values."""
        if self.error is not None:
            return {"spec": str(self.spec), "error": error_dict(self.error)}
        assert self.result is not None
        return {"spec": str(self.spec), **self.result.to_dict()}

    def to_text(self) -> str:
        """The path of the spec, and its build or its error, for people."""
        if self.error is not None:
            return f"{self.spec}:\n{error_text(self.error)}"
        assert self.result is not None
        return f"{self.spec}:\n{self.result.to_text()}"


@dataclass(frozen=True)
class BuildsResult(CommandResult):
    """The builds of many specs.

    Attributes
    ----------
    specs
        The specs that were built, or whose build ended with an error.
    left
        The specs that were not selected.
    """

    specs: tuple[BuiltSpec, ...]
    left: tuple[Path, ...]

    @property
    def exit_code(self) -> int:
        """The worst exit code of all specs."""
        return max((spec.exit_code for spec in self.specs), default=DONE)

    def to_dict(self) -> dict[str, Any]:
        """The specs, and those that were left."""
        return {"specs": [spec.to_dict() for spec in self.specs], "left": list(map(str, self.left))}

    def to_text(self) -> str:
        """Each spec with its build, then how many were left."""
        lines = [spec.to_text() for spec in self.specs]
        if self.left:
            lines.append(f"{count_of(len(self.left), 'spec')} not selected")
        return "\n".join(lines) or "nothing to build"


def build_several(
    given: Sequence[Path | str],
    out: Path,
    words: Sequence[str],
    build_one: Callable[[Path, Path], CommandResult],
    progress: ProgressCallback,
) -> BuildsResult:
    """Build the specs that are selected, each into a folder of its own path below `out`.

    An error in one spec stops no other.
    """
    selection = parse_selection(words)
    paths = expand_specs(given)
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{path} does not lie below the working folder.",
                "Run it where the project begins; each spec gets a folder of its path in DIR.",
            )
    wrong: dict[Path, BuiltSpec] = {}
    selected = []
    for path in paths:
        try:
            if not words or selection.selects(path, progress):
                selected.append(path)
        except (SpecError, EditError) as error:
            wrong[path] = BuiltSpec(path, error=error)
            selected.append(path)
    # Before anything is built: a name may be misspelt.
    selection.require_used()
    built = []
    for path in selected:
        try:
            built.append(wrong.get(path) or BuiltSpec(path, build_one(path, out / path)))
        except (SpecError, EditError) as error:
            built.append(BuiltSpec(path, error=error))
    return BuildsResult(tuple(built), tuple(path for path in paths if path not in selected))
