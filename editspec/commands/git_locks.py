"""``editspec git install`` and ``merge-lock``: git merges locks edit by edit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.git import ATTRIBUTES, describe_failure, driver_settings, run_git
from editspec.engine.lock import Lock, read_lock, write_lock
from editspec.engine.lock_merge import merge_locks
from editspec.engine.result import CommandResult, count_of
from editspec_compiler import SpecError
from editspec_runtime.errors import LockError, UsageError
from editspec_runtime.io.files import write


@dataclass(frozen=True)
class GitInstallResult(CommandResult):
    """The drivers that git was told of.

    Attributes
    ----------
    attributes
        The file that names them.
    added
        Its lines that were added.
    settings
        The settings of this clone.
    """

    attributes: Path
    added: tuple[str, ...]
    settings: dict[str, str]

    def to_text(self) -> str:
        """The lines that were written, and what they are good for."""
        lines = [f"{self.attributes}: + {line}" for line in self.added]
        lines += [f"git config {name} = {value}" for name, value in self.settings.items()]
        return "\n".join([*lines, "git merges locks edit by edit, and git diff compares patches"])


@dataclass(frozen=True)
class GitMergeLockResult(CommandResult):
    """A lock that was merged.

    Attributes
    ----------
    path
        The place of the lock in the repository.
    edits
        The edits of the lock.
    both
        Those that both sides had changed; the lock has ours.
    """

    path: Path
    edits: tuple[str, ...]
    both: tuple[str, ...]

    def to_text(self) -> str:
        """One sentence, and what is to be done."""
        said = f"{self.path}: merged, {count_of(len(self.edits), 'edit')}"
        if self.both:
            said += f"; both sides changed {', '.join(self.both)}"
        return f"{said}\nnext: editspec build {self.path.with_suffix('')} -o DIR"


def git_install(folder: Path | str = ".") -> GitInstallResult:
    """Let git merge locks edit by edit, and compare patches by what they change.

    The lines that name locks and patches go into ``.gitattributes``, which a team shares. What git
    runs goes into the settings of this clone, which git takes from no repository.

    Parameters
    ----------
    folder
        The folder of the project, in a checkout of git.

    Raises
    ------
    UsageError
        The folder is in no checkout, or there is no git.
    """
    root = Path(folder)
    settings = driver_settings()
    _require_checkout(root)
    for name, value in settings.items():
        done = run_git("config", "--local", name, value, folder=root)
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise describe_failure(said, "Check that the settings of the clone can be written.")
    path = root / ".gitattributes"
    old = path.read_text("utf-8") if path.is_file() else ""
    known = old.splitlines()
    added = tuple(line for line in ATTRIBUTES.splitlines() if line not in known)
    if added:
        between = "\n" if old and not old.endswith("\n") else ""
        new = "".join(f"{line}\n" for line in added)
        write(path, f"{old}{between}{new}".encode())
    return GitInstallResult(path, added, settings)


def git_merge_lock(
    base: Path | str, ours: Path | str, theirs: Path | str, *, path: Path | str | None = None
) -> GitMergeLockResult:
    """Merge the locks of two branches, edit by edit.

    Parameters
    ----------
    base
        The lock that both come from; an empty file where there is none.
    ours, theirs
        The locks of the two sides. The merged lock replaces `ours`.
    path
        The place of the lock in the repository. Default: `ours`.

    Raises
    ------
    LockError
        A side is not a lock; then no file is changed.
    """
    ours = Path(ours)
    place = ours if path is None else Path(path)
    sides = [_read_side(Path(side), place) for side in (ours, theirs)]
    merged = merge_locks(_find_base(Path(base)), *sides)
    write_lock(ours, merged.lock)
    return GitMergeLockResult(place, tuple(edit.name for edit in merged.lock.edits), merged.both)


def _require_checkout(folder: Path) -> None:
    """Raise a `UsageError` where a folder is in no checkout of git."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Give the folder of the project.")
    done = run_git("rev-parse", "--show-toplevel", folder=folder)
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise describe_failure(said, "Begin the repository first: git init.")


def _read_side(file: Path, path: Path) -> Lock:
    """The lock of a side. Raises `LockError` where it is not one."""
    try:
        lock = read_lock(file)
    except SpecError as error:
        raise LockError(
            f"One side of the merge of {path} is not a lock: {error.problems[0].message}.",
            "Merge the spec, remove its lock, and build: editspec build writes the lock anew.",
        ) from error
    if lock is None:
        raise UsageError(f"{file} does not exist.", "Let git run it: editspec git install.")
    return lock


def _find_base(file: Path) -> Lock | None:
    """The lock that both sides come from; None where there is none that can be read."""
    try:
        return read_lock(file)
    except SpecError:
        # Such as an empty file, where both sides added the lock. Without a base, what the sides
        # have alike is taken, and of what differs our side: that is right, too.
        return None
