"""A spec that is checked, with what it names; see `references`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from editspec_compiler.document import Document
from editspec_compiler.pins import Pin
from editspec_compiler.problems import Problem, SpecError, SpecPath, render_problem
from editspec_compiler.schema import AnySpec
from editspec_compiler.spec_folder import Folder, ProjectFolder
from editspec_compiler.visit import find_files
from editspec_runtime.codes import Code
from editspec_runtime.core.architecture import Architecture
from editspec_runtime.core.fields import FieldProblem


@dataclass(frozen=True)
class LoadedSpec:
    """A spec whose files and layers exist.

    Attributes
    ----------
    path
        Where it was read from.
    document
        Its text, and where everything stands in it; the data are written out.
    spec
        The spec as a value, of its family and modality.
    weights
        The checkpoint's file.
    architecture
        The model's layers; None for a ``.pt`` or ``.pkl``, which cannot be looked into without
        torch, and for weights that are still to be fetched.
    warnings
        What may not be meant, though the spec can be used.
    drafts
        The folder of files that are not in the project yet; None where all of them are.
    pins
        What was taken from git, each with its commit.
    trees
        The folders of what was taken from git, by their sources.
    """

    path: Path
    document: Document
    spec: AnySpec
    weights: Path
    architecture: Architecture | None
    warnings: tuple[Problem, ...] = ()
    drafts: Path | None = None
    pins: tuple[Pin, ...] = ()
    trees: Mapping[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Folder:
        """Folder that names of files are relative to."""
        return folder_of(self.path, self.drafts, self.trees)

    def error(
        self, path: SpecPath, message: str, hint: str = "", code: Code = Code.SPEC
    ) -> SpecError:
        """Make an error at a place of the spec, for what only a later stage can find."""
        problem = self.document.problem(path, message, hint, code=code)
        return SpecError(self.document.file, [problem], self.document.text)

    def require_edits(self) -> None:
        """Raise a `SpecError` where the spec has no edits."""
        if not self.spec.edits:
            raise self.error(
                ("edits",),
                "this spec has no edits, so that there is nothing to build",
                "add one under edits:; inspect, sample, render and studio take the spec as it is",
                Code.KEY_MISSING,
            )

    def require_own(self, number: int) -> None:
        """Raise a `SpecError` where an edit stands in another spec, and cannot change here."""
        if self.document.find_written(("edits", number)) != ("edits", number):
            raise self.error(
                ("edits", number, "name"),
                f"{self.spec.edits[number].name} is the edit of another spec, and its values are "
                "not here",
                "do this with that spec, or write the edit out here",
                Code.REWRITE_UNFIT,
            )

    def misfit(self, path: SpecPath, found: FieldProblem) -> SpecError:
        """Make an error about a mapping at a path of the spec."""
        problem = self.document.misfit(path, found)
        return SpecError(self.document.file, [problem], self.document.text)

    def warning_lines(self) -> list[str]:
        """Write all warnings for people."""
        file, text = self.document.file, self.document.text
        return [f"warning: {render_problem(each, file, text)}" for each in self.warnings]

    def files(self, number: int) -> dict[str, Path]:
        """Files that edit `number` depends on, besides the weights, by their names."""
        edit, model = self.spec.edits[number], self.spec.model
        edit = edit.model_copy(update={"query": None})  # which has no effect
        names = {name for _, name in find_files(type(edit), edit)}
        sample = getattr(self.spec, "statistics", None)
        if sample is not None:
            names.update(name for _, name in find_files(type(sample), sample))
        names.update(model.files(self.path.parent))
        files = {name: self.folder / name for name in sorted(names)}
        if model.weights in files:
            files[model.weights] = self.weights
        return files


def folder_of(path: Path, drafts: Path | None, trees: Mapping[str, Path]) -> Folder:
    """Return what names in the spec at `path` are relative to."""
    if drafts is None and not trees:
        return path.parent
    return ProjectFolder(path.parent, drafts, trees)
