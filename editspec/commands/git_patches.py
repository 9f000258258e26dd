"""``editspec git show-patch`` and ``diff-patch``: patches as git shows them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from editspec.commands.diff import diff
from editspec.engine.contents import describe_patch
from editspec.engine.result import CommandResult
from editspec_runtime.errors import EditError, WrongPath
from editspec_runtime.patches.patch import read_patch

NOWHERE = "/dev/null"
"""The name by which git says that one side has no such file."""


@dataclass(frozen=True)
class GitShowPatchResult(CommandResult):
    """The text that stands for a patch in a diff of lines."""

    lines: tuple[str, ...]

    def to_text(self) -> str:
        """The lines."""
        return "\n".join(self.lines)


@dataclass(frozen=True)
class GitDiffPatchResult(CommandResult):
    """The text that git shows of a patch that differs."""

    path: Path
    lines: tuple[str, ...]

    def to_text(self) -> str:
        """The path, and what differs."""
        return "\n".join([f"patch {self.path}", *(f"  {line}" for line in self.lines)])


def git_show_patch(file: Path | str) -> GitShowPatchResult:
    """Show a patch as lines that git can compare.

    Parameters
    ----------
    file
        A patch. Of any other file one line says its size and digest, as git needs an answer.

    Raises
    ------
    WrongPath
        There is no such file.
    """
    return GitShowPatchResult(tuple(_patch_lines(Path(file))))


def git_diff_patch(
    path: Path | str, old: Path | str = "", new: Path | str = ""
) -> GitDiffPatchResult:
    """Show how two versions of a patch differ, as ``diff`` does.

    Parameters
    ----------
    path
        The place of the patch in the repository.
    old, new
        The files of both versions; ``/dev/null`` where there is none. Without both, a merge has not
        decided yet.

    Raises
    ------
    WrongPath
        There is no such file.
    """
    path, before, after = Path(path), str(old), str(new)
    if not before and not after:
        return GitDiffPatchResult(path, ("not merged yet",))
    if before == NOWHERE:
        return GitDiffPatchResult(path, ("added", *_patch_lines(Path(after))))
    if after == NOWHERE:
        return GitDiffPatchResult(path, ("removed", *_patch_lines(Path(before))))
    first, second = Path(before), Path(after)
    if _is_patch(first) and _is_patch(second):
        lines = diff(first, second).to_text().splitlines()
    else:
        lines = [f"- {line}" for line in _patch_lines(first)]
        lines += [f"+ {line}" for line in _patch_lines(second)]
    return GitDiffPatchResult(path, tuple(lines))


def _is_patch(file: Path) -> bool:
    """Whether a file is a patch that can be read."""
    try:
        read_patch(file)
    except EditError:
        return False
    return True


def _patch_lines(file: Path) -> list[str]:
    """The facts about a patch, and how much it changes each parameter."""
    if not file.is_file():
        raise WrongPath(f"{file} does not exist.", "Let git run it: editspec git install.")
    try:
        facts, patch = describe_patch(file), read_patch(file)
        sizes = {name: float(patch.delta(name).norm()) for name in patch.parameters}
    except EditError:
        data = file.read_bytes()
        return [f"not a patch: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"]
    lines = facts.to_text().splitlines()
    return [*lines, *(f"change of {name}: norm {size:.6g}" for name, size in sizes.items())]
