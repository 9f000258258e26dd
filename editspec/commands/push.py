"""``editspec push``: a build on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.hub import parse_repository, push_folder
from editspec.engine.licence import CARD
from editspec.engine.result import CommandResult
from editspec.engine.signatures import SIGNATURE, find_other_files
from editspec.engine.stacks import read_chain
from editspec.views.card import MARK
from editspec_runtime.errors import FileError, SignatureError


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
        The hub refuses, or cannot be reached; or the card is of another build.
    SignatureError
        The signature is of another build.
    """
    parse_repository(repository)
    chain = read_chain([folder])
    # A build leaves the card and the signature of an earlier one where they are.
    _require_card_of(Path(folder), chain[-1].metadata["result"] if chain else "")
    _require_signature_of(Path(folder))
    return PushResult(push_folder(Path(folder), repository))


def _require_card_of(folder: Path, result: str) -> None:
    """Raise a `FileError` where the card that `card` wrote does not name the edited weights."""
    path = folder / CARD
    if not path.is_file():
        return
    card = path.read_bytes()
    if card.startswith(MARK) and result.encode() not in card:
        raise FileError(
            f"{path} is the card of another build.",
            "Write it again with editspec card, or remove it.",
        )


def _require_signature_of(folder: Path) -> None:
    """Raise a `SignatureError` where the signature lists other files than lie there."""
    path = folder / SIGNATURE
    others = find_other_files(folder, path) if path.is_file() else []
    if others:
        raise SignatureError(
            f"{path} is the signature of another build: not as they were signed are "
            f"{', '.join(others)}.",
            "Build with --provenance and sign again, or remove it.",
        )
