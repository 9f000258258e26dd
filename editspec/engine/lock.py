"""Lock files: the inputs and the results of a build. Imports no torch."""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from editspec.engine.plain_differences import file_differences, plain_differences
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.document import Document, kind, read_document
from editspec_compiler.pins import Pin
from editspec_compiler.schema import AnyEdit
from editspec_compiler.yaml_core import dump
from editspec_runtime.codes import Code
from editspec_runtime.errors import FileError, LockError, reading_foreign
from editspec_runtime.io.digests import digest
from editspec_runtime.io.files import write

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

NEW, CHANGED, DEPENDENT, MISSING = "new", "changed", "dependent", "missing"
"""The status of an edit that is to be built."""

CURRENT, MOVED = "up to date", "moved"
"""The status of an edit whose patch is taken: as it is, or under another name."""

LONGEST = 200
"""The most characters of a value that stands in the lock as it is.

A longer value, such as a mask as a data URL, is replaced by its digest.
"""

MOST_ENTRIES = 256
"""The most entries of a list that stand in the lock one by one, as rows of a file may be many."""


class _Part(BaseModel):
    """The base of the parts of a lock: unknown fields and other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LockedEdit(_Part):
    """The inputs and the results of one edit of a build.

    Attributes
    ----------
    settings
        The edit of the spec with its defaults filled in; long values are digests.
    files
        The SHA-256 of each file that the edit names.
    edit, parent
        The digests of the edit and of the weights that it was solved on.
    rule, second_moment, patch, result
        The digests of the rule's file, of C (None where the method needs none), of the patch's
        content and of the weights after the patch.
    loss, residual
        The loss and the residual of the weights after the patch; the residual is None where the
        method has none.
    environment
        All that the bits of the results depend on besides the inputs.
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


FORMAT, VERSION = "editspec.lock", 1
"""What a lock says of itself."""


class Lock(_Part):
    """The lock of a spec: the digest of its base, what its edits share, and the edits.

    `sources` are the commits of what the spec uses from git.
    """

    format: Literal["editspec.lock"]
    version: Literal[1]
    weights: Digest
    settings: dict[str, Any]
    sources: list[Pin] = Field([], exclude_if=operator.not_)
    edits: list[LockedEdit]

    def to_bytes(self) -> bytes:
        """The lock as its file: equal locks give equal bytes."""
        return (HEAD + dump(self.model_dump())).encode()

    def edit(self, name: str, former: str | None = None) -> LockedEdit | None:
        """The edit of this name, or else of its former one; None where there is none."""
        by_name = {edit.name: edit for edit in self.edits}
        return by_name.get(name) or by_name.get(former or name)


HEAD = (
    "# Written by editspec build and editspec lock. "
    "Keep it in git, beside the spec; do not edit it.\n"
)


def lock_path(spec: Path) -> Path:
    """The path of the lock of a spec, ``SPEC.lock``."""
    return spec.with_name(f"{spec.name}.lock")


def read_lock(path: Path) -> Lock | None:
    """Read the lock at `path`; None where there is none.

    Raises `SpecError` where the file is not a lock of version 1.
    """
    if not path.exists():
        return None
    with reading_foreign(path):
        return _read_lock(path)


def _read_lock(path: Path) -> Lock:
    document = read_document(path)
    _require_this_version(document)
    problems = list(document.problems)
    try:
        lock = Lock.model_validate(document.data)
    except ValidationError as error:
        problems += [
            document.problem(tuple(details["loc"]), _misfit(details), HINT, code=Code.LOCK_UNFIT)
            for details in error.errors(include_url=False)
        ]
    if not problems and not _is_finite(document.data):
        message = "this is not a lock of version 1: it holds numbers that are not finite"
        problems.append(document.problem((), message, HINT, code=Code.LOCK_UNFIT))
    if problems:
        raise SpecError(str(path), problems, document.text)
    return lock


def _require_this_version(document: Document) -> None:
    """Raise a `SpecError` where a newer editspec wrote a lock."""
    version = document.data.get("version")
    if document.data.get("format") != FORMAT or type(version) is not int or version <= VERSION:
        return
    message = f"this lock is of version {version}, and this editspec reads version {VERSION}"
    hint = "install the editspec that wrote the lock, or a newer one"
    problem = document.problem(("version",), message, hint, code=Code.LOCK_NEWER)
    raise SpecError(document.file, [problem], document.text)


def _misfit(details: ErrorDetails) -> str:
    """Say what does not fit at a place of a lock."""
    key = str(details["loc"][-1])
    found = f"found {kind(details['input'])}, which a lock does not have here"
    words = {"missing": f"{key} is missing", "extra_forbidden": f"there is no {key} in a lock"}
    return f"this is not a lock of version {VERSION}: {words.get(details['type'], found)}"


def _is_finite(value: Any) -> bool:
    """Whether plain values hold neither NaN nor infinity."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


HINT = "remove the lock and build again, or take it from git"


def require_place(path: Path) -> None:
    """Raise a `FileError` where no lock can be written.

    To be called before the work, so that no work is done in vain.
    """
    if not os.access(path.parent, os.W_OK):
        raise FileError(
            f"{path} cannot be written: permission denied.",
            "Build from a copy of the spec, or with --frozen, which writes no lock.",
        )


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock, unless the same bytes lie there already."""
    data = lock.to_bytes()
    if not (path.is_file() and path.read_bytes() == data):
        write(path, data)


def shared_settings(loaded: LoadedSpec) -> dict[str, Any]:
    """The settings of a spec that all of its edits depend on.

    The weights are left out, as the lock holds their digest.
    """
    left_out: dict[str, Any] = {
        "version": True,
        "edits": True,
        "checks": True,
        "pictures": True,
        "moved": True,
        "parameters": True,
        "model": {"weights", "digest"},
    }
    said = loaded.spec.model_dump(mode="json", exclude=left_out)
    settings: dict[str, Any] = _abridge(said)
    return settings


def edit_settings(loaded: LoadedSpec, number: int) -> dict[str, Any]:
    """The settings of edit `number` without its name, defaults filled in."""
    said = loaded.spec.edits[number].model_dump(mode="json", exclude={"name"})
    settings: dict[str, Any] = _abridge(said)
    return settings


def edit_files(loaded: LoadedSpec, number: int) -> dict[str, str]:
    """The SHA-256 of each file that edit `number` names."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in loaded.files(number).items()
    }


def _abridge(value: Any) -> Any:
    """Leave out what is None, and replace long values by their digests."""
    if isinstance(value, dict):
        return {name: _abridge(part) for name, part in value.items() if part is not None}
    # A list of plain values, such as the pixels of a mask, counts as one value.
    nested = isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value)
    many = nested and len(value) > MOST_ENTRIES and isinstance(value[0], dict)
    if nested and not many:
        return [_abridge(part) for part in value]
    return value if len(str(value)) <= LONGEST else f"sha256:{digest(value)}"


@dataclass(frozen=True)
class Step:
    """One edit in the plan of a build.

    Attributes
    ----------
    name
        The name of the edit.
    status
        ``new``: the lock has no such edit. ``changed``: something that the edit is made from has
        changed. ``dependent``: an earlier edit leaves other weights than before. ``missing``:
        nothing has changed, but the patch is nowhere to be found. ``up to date``: nothing is to be
        done. ``moved``: nothing but the name has changed.
    because
        The reasons: the fields and files that changed and how, or the edits that this one depends
        on.
    """

    name: str
    status: str
    because: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the patch that is there is taken, so that nothing is solved."""
        return self.status in (CURRENT, MOVED)


def plan_steps(
    loaded: LoadedSpec,
    weights: str,
    lock: Lock | None,
    available: Callable[[int, LockedEdit], bool],
) -> list[Step]:
    """Decide for each edit of a spec what a build does with it.

    This is the one place that decides it, for ``plan`` and ``build`` alike.

    Parameters
    ----------
    loaded
        The checked spec.
    weights
        The digest of its base.
    lock
        The lock of the spec; None where it was never built.
    available
        Takes the number of an edit and its entry in the lock. Says whether the folder or the cache
        has its patch.
    """
    shared: list[str] = []
    if lock is not None:
        if lock.weights != weights:
            shared.append(f"model.weights: {lock.weights[:12]} -> {weights[:12]}")
        shared += plain_differences(lock.settings, shared_settings(loaded))
    found: list[Step] = []
    names: list[str] = []  # as the lock has them
    parent, former = weights, loaded.spec.former_names
    for number, edit in enumerate(loaded.spec.edits):
        locked = lock.edit(edit.name, former.get(edit.name)) if lock is not None else None
        rebuilt = [step.name for step in found if not step.current]
        if lock is None or locked is None:
            found.append(Step(edit.name, NEW))
            continue
        changes = [*shared, *plain_differences(locked.settings, edit_settings(loaded, number))]
        changes += file_differences(locked.files, edit_files(loaded, number))
        if changes:
            found.append(Step(edit.name, CHANGED, tuple(changes)))
        elif rebuilt:
            found.append(Step(edit.name, DEPENDENT, tuple(rebuilt)))
        elif locked.parent != parent:
            found.append(Step(edit.name, DEPENDENT, _order_changes(lock, locked.name, names)))
        elif not available(number, locked):
            found.append(Step(edit.name, MISSING))
        elif moved := _list_moved(edit, locked.name, found):
            found.append(Step(edit.name, MOVED, moved))
        else:
            found.append(Step(edit.name, CURRENT))
        names.append(locked.name)
        parent = locked.result
    return found


def _list_moved(edit: AnyEdit, locked: str, before: Sequence[Step]) -> tuple[str, ...]:
    """The names that differ from those in the lock, of the edit and of what it protects."""
    if edit.name != locked:
        return (f"{locked} -> {edit.name}",)
    if edit.protect is None:
        return ()
    return tuple(line for step in before if step.status == MOVED for line in step.because)


def input_changes(loaded: LoadedSpec, weights: str, lock: Lock) -> list[str]:
    """The inputs that are not as the lock has them, a line each.

    A frozen build refuses them.
    """
    found = []
    # Where the patches lie does not matter here, so that each counts as available.
    todo = plan_steps(loaded, weights, lock, lambda number, locked: True)
    for step in todo:
        if step.status == NEW:
            found.append(f"{step.name}: not in the lock")
        elif step.status in (CHANGED, MOVED):
            found += [f"{step.name}: {change}" for change in step.because]
    found += [
        f"{name}: in the lock, and no longer in the spec" for name in removed_edits(loaded, lock)
    ]
    found += _source_changes(loaded.pins, lock.sources)
    names = [edit.name for edit in loaded.spec.edits]
    locked = [edit.name for edit in lock.edits]
    if not found and names != locked:
        found.append(f"the order of the edits: {', '.join(locked)} -> {', '.join(names)}")
    if not found:
        found += [f"{step.name}: {reason}" for step in todo for reason in step.because]
    return found


def _source_changes(used: Sequence[Pin], locked: Sequence[Pin]) -> Iterator[str]:
    """The sources of git that a lock does not have as a spec uses them, and those left in it."""
    pinned = {pin.source: pin for pin in locked}
    for pin in used:
        if pin.source not in pinned:
            yield f"{pin.source}: not in the lock"
        elif (was := pinned[pin.source].commit) != pin.commit:
            yield f"{pin.source}: {was} -> {pin.commit}"
    for name in pinned.keys() - {pin.source for pin in used}:
        yield f"{name}: in the lock, and no longer used"


def require_unchanged(loaded: LoadedSpec, weights: str, lock: Lock | None) -> Lock:
    """Return the lock of a spec whose base has the digest `weights`.

    Raises
    ------
    LockError
        There is no lock, or an input is not as the lock has it.
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


def removed_edits(loaded: LoadedSpec, lock: Lock | None) -> list[str]:
    """The edits that the lock has and the spec does not."""
    if lock is None:
        return []
    names = {edit.name for edit in loaded.spec.edits} | set(loaded.spec.former_names.values())
    return [edit.name for edit in lock.edits if edit.name not in names]


def _order_changes(lock: Lock, name: str, before: Sequence[str]) -> tuple[str, ...]:
    """The differences of the edits before edit `name` from those in the lock."""
    names = [edit.name for edit in lock.edits]
    locked_before = names[: names.index(name)]
    gone = [other for other in locked_before if other not in before]
    come = [other for other in before if other not in locked_before]
    if gone or come:
        lines = [f"{other} no longer comes before it" for other in gone]
        lines += [f"{other} comes before it now" for other in come]
        return tuple(lines)
    if locked_before != list(before):
        return (f"the order before it: {', '.join(locked_before)} -> {', '.join(before)}",)
    return ("it was built on other weights than the edit before it leaves (two locks were merged)",)
