"""Lock files: what a spec was built from and what came of it, beside the spec and in git. Imports
no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.document import dump, read_document
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError, LockError
from editspec_runtime.io.digests import digest
from editspec_runtime.io.files import write

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

NEW, CHANGED, DEPENDENT, MISSING, CURRENT = "new", "changed", "dependent", "missing", "up to date"
"""What a build has to do with an edit: all but the last are built."""

LONGEST = 200
"""Characters up to which a value of a spec stands in the lock; of a longer one (a mask as a data
URL) its digest.
"""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LockedEdit(_Part):
    """What one edit was built from, and what came of it.

    Attributes
    ----------
    settings
        The edit as the spec has it, defaults filled in; long values as digests.
    files
        The files that it names, and the SHA-256 of their bytes.
    edit, parent
        The digests of the edit and of the weights that it was solved on.
    rule, second_moment, patch, result
        The digests of the rule's file, of C (none where the solver needs none), of the patch's
        content and of the weights after it.
    loss, residual
        Of the weights after it; the residual where the method has one.
    environment
        What the bits of these depend on beside the inputs.
    """

    name: str
    settings: dict[str, Any]
    files: dict[str, Digest]
    edit: Digest
    parent: Digest
    rule: Digest
    second_moment: Digest | None
    patch: Digest
    result: Digest
    loss: float
    residual: float | None
    environment: dict[str, str]


class Lock(_Part):
    """The lock of a spec: the digest of its base, what its edits share, and the edits."""

    format: Literal["editspec.lock"]
    version: Literal[1]
    weights: Digest
    settings: dict[str, Any]
    edits: list[LockedEdit]

    def to_bytes(self) -> bytes:
        """The lock as its file: equal locks give equal bytes."""
        return (HEAD + dump(self.model_dump())).encode()

    def edit(self, name: str) -> LockedEdit | None:
        """The edit of this name."""
        return next((edit for edit in self.edits if edit.name == name), None)


HEAD = "# Written by editspec build and editspec lock. Keep it in git, beside the spec; do not edit it.\n"


def lock_path(spec: Path) -> Path:
    """Where the lock of a spec lies: ``SPEC.lock``."""
    return spec.with_name(f"{spec.name}.lock")


def read_lock(path: Path) -> Lock | None:
    """The lock at `path`; None where there is none. Raises `SpecError` where it is no lock that can
    be understood.
    """
    if not path.exists():
        return None
    document = read_document(path)
    problems = list(document.problems)
    try:
        lock = Lock.model_validate(document.data)
    except ValidationError as error:
        problems += [
            document.problem(
                tuple(details["loc"]),
                f"this is no lock of version 1: {details['msg'].lower()}",
                REMEDY,
                code=Code.LOCK_UNFIT,
            )
            for details in error.errors(include_url=False)
        ]
    if problems:
        raise SpecError(str(path), problems, document.text)
    return lock


REMEDY = "resolve the merge, or remove the lock and build again"


def require_place(path: Path) -> None:
    """Raise a `FileError` where no lock can be written: before the work that it would be written
    after.
    """
    if not os.access(path.parent, os.W_OK):
        raise FileError(
            f"{path} cannot be written: permission denied.",
            "Build from a copy of the spec, or with --frozen, which writes no lock.",
        )


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock unless it is there already as it should be."""
    data = lock.to_bytes()
    if not (path.is_file() and path.read_bytes() == data):
        write(path, data)


def shared_settings(loaded: LoadedSpec) -> dict[str, Any]:
    """What a spec says beside its edits, where it bears on them: the weights count by their digest
    alone.
    """
    left_out: dict[str, Any] = {
        "version": True,
        "edits": True,
        "checks": True,
        "model": {"weights", "digest"},
    }
    settings: dict[str, Any] = _abridged(loaded.spec.model_dump(mode="json", exclude=left_out))
    return settings


def edit_settings(loaded: LoadedSpec, number: int) -> dict[str, Any]:
    """What a spec says of edit `number`, defaults filled in, without its name."""
    settings: dict[str, Any] = _abridged(
        loaded.spec.edits[number].model_dump(mode="json", exclude={"name"})
    )
    return settings


def edit_files(loaded: LoadedSpec, number: int) -> dict[str, str]:
    """The files that edit `number` names, and the SHA-256 of their bytes."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in loaded.files(number).items()
    }


def _abridged(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _abridged(part) for name, part in value.items() if part is not None}
    if isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        return [_abridged(part) for part in value]
    return value if len(str(value)) <= LONGEST else f"sha256:{digest(value)}"


@dataclass(frozen=True)
class Step:
    """What a build has to do with one edit.

    Attributes
    ----------
    name
        The edit's.
    status
        ``new``; ``changed``: something that the edit is made from; ``dependent``: on weights that
        an earlier edit leaves otherwise; ``missing``: nothing changed, but its patch is nowhere to
        be found; ``up to date``.
    because
        Why: the fields and files that changed and how, or the edits that it depends on.
    """

    name: str
    status: str
    because: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the patch that is there is taken as it is."""
        return self.status == CURRENT


def plan_steps(
    loaded: LoadedSpec,
    weights: str,
    lock: Lock | None,
    available: Callable[[int, LockedEdit], bool],
) -> list[Step]:
    """What a build of this spec does, edit by edit: the one place that decides it, for `plan` and
    `build` alike.

    Parameters
    ----------
    loaded
        The checked spec.
    weights
        The digest of its base.
    lock
        Its lock; None where it was never built.
    available
        Whether the patch of a locked edit, which is number n now, can be taken from somewhere.
    """
    shared = [] if lock is None else list(_differences(lock.settings, shared_settings(loaded)))
    if lock is not None and lock.weights != weights:
        shared.insert(0, f"model.weights: {lock.weights[:12]} -> {weights[:12]}")
    found: list[Step] = []
    parent = weights
    for number, edit in enumerate(loaded.spec.edits):
        locked = lock.edit(edit.name) if lock is not None else None
        rebuilt = [step.name for step in found if not step.current]
        if lock is None or locked is None:
            found.append(Step(edit.name, NEW))
            continue
        changes = [*shared, *_differences(locked.settings, edit_settings(loaded, number))]
        changes += _file_differences(locked.files, edit_files(loaded, number))
        if changes:
            found.append(Step(edit.name, CHANGED, tuple(changes)))
        elif rebuilt:
            found.append(Step(edit.name, DEPENDENT, tuple(rebuilt)))
        elif locked.parent != parent:
            found.append(
                Step(edit.name, DEPENDENT, _moved(lock, edit.name, [step.name for step in found]))
            )
        elif not available(number, locked):
            found.append(Step(edit.name, MISSING))
        else:
            found.append(Step(edit.name, CURRENT))
        parent = locked.result
    return found


def input_changes(loaded: LoadedSpec, weights: str, lock: Lock) -> list[str]:
    """All that is not as the lock has it, a line each: what a frozen build refuses."""
    found = []
    todo = plan_steps(loaded, weights, lock, lambda number, locked: True)
    for step in todo:
        if step.status == NEW:
            found.append(f"{step.name}: not in the lock")
        elif step.status == CHANGED:
            found += [f"{step.name}: {change}" for change in step.because]
    found += [
        f"{name}: in the lock, and no longer in the spec" for name in removed_edits(loaded, lock)
    ]
    names, locked = [edit.name for edit in loaded.spec.edits], [edit.name for edit in lock.edits]
    if not found and names != locked:
        found.append(f"the order of the edits: {', '.join(locked)} -> {', '.join(names)}")
    if not found:
        found += [f"{step.name}: {reason}" for step in todo for reason in step.because]
    return found


def require_unchanged(loaded: LoadedSpec, weights: str, lock: Lock | None) -> Lock:
    """Return the lock of a spec whose base has the digest `weights`.

    Raises
    ------
    LockError
        There is no lock, or an input is not as it says.
    """
    path = lock_path(loaded.path)
    if lock is None:
        raise LockError(f"There is no {path}.", "Make it with editspec lock, and keep it in git.")
    if changes := input_changes(loaded, weights, lock):
        raise LockError(
            f"{path} is out of date:\n  " + "\n  ".join(changes),
            "Build without --frozen (or run editspec lock), and commit the lock with the change.",
        )
    return lock


def require_same_artifacts(lock: Lock, built: Sequence[LockedEdit]) -> None:
    """Raise a `LockError` where an edit came out otherwise in the environment of the lock."""
    differences: list[str] = []
    for edit in built:
        before = lock.edit(edit.name)
        if before is not None and before.environment == edit.environment:
            differences += artifact_differences(before, edit)
    if differences:
        raise LockError(
            "The environment is that of the lock, and what came out is not:\n  "
            + "\n  ".join(differences),
            "The lock was edited, or something that the environment does not name has changed: "
            "build again without --frozen, and look at what changed.",
        )


def removed_edits(loaded: LoadedSpec, lock: Lock | None) -> list[str]:
    """The edits that the lock has and the spec does not."""
    names = {edit.name for edit in loaded.spec.edits}
    return [edit.name for edit in lock.edits if edit.name not in names] if lock is not None else []


def artifact_differences(locked: LockedEdit, built: LockedEdit) -> list[str]:
    """The artifacts of an edit that differ between two builds of it."""
    names = ("second_moment", "rule", "patch", "result")
    return [
        f"{built.name}: {name}: {getattr(locked, name)} -> {getattr(built, name)}"
        for name in names
        if getattr(locked, name) != getattr(built, name)
    ]


def _moved(lock: Lock, name: str, before: Sequence[str]) -> tuple[str, ...]:
    """How the edits before one differ from those in the lock."""
    names = [edit.name for edit in lock.edits]
    locked_before = names[: names.index(name)]
    gone = [f"{other} comes no longer before it" for other in locked_before if other not in before]
    come = [f"{other} comes before it now" for other in before if other not in locked_before]
    if gone or come or locked_before != list(before):
        return tuple(gone + come) or (
            f"the order before it: {', '.join(locked_before)} -> {', '.join(before)}",
        )
    return ("it was built on other weights than the edit before it leaves (two locks were merged)",)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What differs between two plain values, as lines ``path: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _differences(
                old.get(name), new.get(name), f"{path}.{name}" if path else str(name)
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(was, now, f"{path}[{index}]")
    elif old != new or type(old) is not type(new):
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _file_differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in new:
        if name in old and old[name] != new[name]:
            yield f"{name}: its content"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
