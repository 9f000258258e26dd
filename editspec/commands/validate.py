"""``editspec validate``: specs, their files and their locks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editspec.engine.failures import error_code, error_dict, error_text
from editspec.engine.lock import input_changes, lock_path, read_lock
from editspec.engine.policy import POLICY_CHECK, load_obeying
from editspec.engine.project import FILE as PROJECT_FILE
from editspec.engine.result import DONE, CommandResult, count_of
from editspec_compiler import LoadedSpec, SpecError, load
from editspec_compiler.document import read_document
from editspec_compiler.problems import Problem
from editspec_compiler.registry import EditFacts, modality_of
from editspec_compiler.uses import find_asked, is_asking
from editspec_runtime.errors import EditError


@dataclass(frozen=True)
class ValidEdit:
    """One edit of a spec; `rank` is None where its method has none.

    `facts` are what its modality knows of it.
    """

    name: str
    layer: str
    rank: int | None
    facts: EditFacts = field(default_factory=EditFacts)

    def to_dict(self) -> dict[str, Any]:
        """The edit as plain values."""
        return {"name": self.name, "layer": self.layer, "rank": self.rank, **self.facts.values}


@dataclass(frozen=True)
class ValidFile:
    """One file without problems.

    Attributes
    ----------
    file
        A spec, or a lock by itself.
    edits, checks
        The edits of a spec, and the names of its checks.
    lock
        The inputs that have changed since the lock; None where there is no lock.
    locked
        The count of edits of a lock by itself; None for a spec.
    asked
        The parameters of a library that have no default, so that only a spec that uses it can be
        looked at as a whole.
    warnings, warning_lines
        What may not be meant, as values and for people.
    """

    file: Path
    edits: tuple[ValidEdit, ...] = ()
    checks: tuple[str, ...] = ()
    lock: tuple[str, ...] | None = None
    locked: int | None = None
    asked: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    warning_lines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The file as plain values."""
        if self.locked is not None:
            return {"valid": True}
        if self.asked:
            return {"valid": True, "asked": list(self.asked)}
        lock = None if self.lock is None else list(self.lock)
        return {
            "valid": True,
            "edits": [edit.to_dict() for edit in self.edits],
            "checks": list(self.checks),
            "lock": lock,
            "warnings": [problem.to_dict() for problem in self.warnings],
        }

    def to_text(self) -> str:
        """The file for people."""
        if self.locked is not None:
            return f"{self.file}: the lock of {count_of(self.locked, 'edit')}, no problems"
        if self.asked:
            asked = ", ".join(self.asked)
            return f"{self.file}: a library, no problems; specs that use it give {asked}"
        counted = count_of(len(self.edits), "edit")
        if self.checks:
            counted += f", {count_of(len(self.checks), 'check')}"
        if POLICY_CHECK in self.checks:
            counted += f" with that of {PROJECT_FILE}"
        lines = [f"{self.file}: {counted}, no problems"]
        for edit in self.edits:
            lines += [f"  {edit.name}: {line}" for line in edit.facts.lines]
        if self.lock:
            lines.append(f"{lock_path(self.file)} is out of date:")
            lines += [f"  {change}" for change in self.lock]
        return "\n".join([*lines, *self.warning_lines])


@dataclass(frozen=True)
class ValidateResult(CommandResult):
    """The files without problems, and the errors of all others."""

    files: tuple[ValidFile, ...]
    errors: tuple[SpecError | EditError, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether no file has a problem."""
        return not self.errors

    @property
    def exit_code(self) -> int:
        """The exit code: that of a wrong spec comes before that of any other error."""
        if self.valid:
            return DONE
        return max(error_code(error) for error in self.errors)

    @property
    def is_failure(self) -> bool:
        """Whether a file has a problem."""
        return not self.valid

    def to_dict(self) -> dict[str, Any]:
        """The values of the only file, or a list of several files."""
        if self.errors:
            return {"error": {"specs": [error_dict(error) for error in self.errors]}}
        if len(self.files) == 1:
            return self.files[0].to_dict()
        entries = [{"spec": str(file.file), **file.to_dict()} for file in self.files]
        return {"valid": True, "specs": entries}

    def to_text(self) -> str:
        """The errors, or where there are none the files."""
        if self.errors:
            return "\n".join(error_text(error) for error in self.errors)
        return "\n".join(file.to_text() for file in self.files)


def validate(specs: Path | str | LoadedSpec | Sequence[Path | str]) -> ValidateResult:
    """Validate specs, everything that they name, and their locks.

    Each of `specs` may be a lock by itself.

    Raises
    ------
    SpecError, EditError
        A single file is given, and it is wrong. For several files, the result holds the errors.
    """
    if isinstance(specs, (Path, str, LoadedSpec)):
        return ValidateResult((_validate(specs),))
    if len(specs) == 1:
        return ValidateResult((_validate(specs[0]),))
    files: list[ValidFile] = []
    errors: list[SpecError | EditError] = []
    for spec in specs:
        try:
            files.append(_validate(spec))
        except (SpecError, EditError) as error:
            errors.append(error)
    return ValidateResult(tuple(files), tuple(errors))


def _validate(spec: Path | str | LoadedSpec) -> ValidFile:
    if not isinstance(spec, LoadedSpec):
        path = Path(spec)
        if path.suffix == ".lock" and (alone := read_lock(path)):
            return ValidFile(path, locked=len(alone.edits))
        try:
            spec = load(path)
        except SpecError as error:
            if not is_asking(error):
                raise
            return ValidFile(path, asked=find_asked(read_document(path)))
    spec = load_obeying(spec)
    lock = read_lock(lock_path(spec.path))
    changes = None
    if lock is not None:
        # The weights may be large, so that only plan and build compare them with the lock.
        changes = tuple(input_changes(spec, lock.weights, lock))
    modality, edits = modality_of(spec.spec.model.family), []
    for number, edit in enumerate(spec.spec.edits):
        facts = modality.edit_facts(spec, number)
        edits.append(ValidEdit(edit.name, ",".join(edit.layer_names), edit.rank_limit, facts))
    checks = tuple(check.name or check.measure for check in spec.spec.checks)
    return ValidFile(
        spec.path,
        tuple(edits),
        checks,
        changes,
        warnings=spec.warnings,
        warning_lines=tuple(spec.warning_lines()),
    )
