"""``editspec push``: a build on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.hub import parse_repository, push_folder
from editspec.engine.result import CommandResult
from editspec.engine.stacks import read_chain


@dataclass(frozen=True)
class PushResult(CommandResult):
    """The address of the commit that holds a build."""

    commit: str

    def to_text(self) -> str:
        """The address of the commit."""
        return self.commit


def push(folder: Path | str, repository: str) -> PushResult:
    """Push a build to a repository of the Hugging Face hub, in one commit.

    Its patches, manifest, card, picture, licence, statement and signature are pushed, and nothing
    else of the folder. A repository that is not there is made, and is private.

    Parameters
    ----------
    folder
        The folder of a build.
    repository
        ``hf://organisation/repository``, with ``@revision`` for another branch than ``main``.

    Raises
    ------
    UsageError
        The address is wrong, or the package huggingface_hub is not installed.
    PatchError
        The patches are damaged, or do not follow one another.
    FileError
        The hub refuses, or cannot be reached.
    """
    parse_repository(repository)
    read_chain([folder])
    return PushResult(push_folder(Path(folder), repository))
