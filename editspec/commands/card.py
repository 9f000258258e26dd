"""``editspec card``: a model card for a build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.commands.check import check_session, require_functions
from editspec.engine.checks import CheckRow
from editspec.engine.licence import Licence, find_licence
from editspec.engine.opening import fetch_weights
from editspec.engine.patch_files import list_patch_files
from editspec.engine.result import CommandResult
from editspec.engine.session import BuildSession
from editspec.engine.stacks import read_chain
from editspec.modalities.image.pictures import png_bytes, require_free_picture
from editspec.views.card import MARK, CardContent, write_card
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import PatchError, UsageError
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import kept_file, marked_file

CARD, PICTURE, LICENCE = "README.md", "before-after.png", "LICENSE"

PICTURES = 8
"""The number of images that a card shows."""


@dataclass(frozen=True)
class CardResult(CommandResult):
    """The card of a build.

    Attributes
    ----------
    card
        Its path.
    picture
        The path of its picture; None without one.
    licence
        The identifier of the licence; None where it is not known.
    """

    card: Path
    picture: Path | None = None
    licence: str | None = None

    def to_text(self) -> str:
        """The path of the card, and what it does not know."""
        if self.licence is None:
            return f"{self.card}\nnote: nothing says the licence of the base; give --licence"
        return str(self.card)


def card(
    folder: Path | str,
    *,
    spec: Path | str | LoadedSpec | None = None,
    licence: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> CardResult:
    """Write a model card for a build: ``README.md`` in its folder.

    It says the base and its digest, the edits, and how to apply them. With a spec it has the checks
    and a picture, too, and the licence that the base's card or licence file says.

    Parameters
    ----------
    folder
        The folder of a build.
    spec
        The spec that was built.
    licence
        The identifier of the base's licence, where nothing beside the base says it.

    Raises
    ------
    UsageError
        The licence is another one than that of the base.
    PatchError
        The folder holds other patches than those of the spec.
    FileError
        Another file lies where the card is to be written.
    """
    root = Path(folder)
    marked_file(MARK, (".md",)).require_free(root / CARD)
    files = list_patch_files([root])
    patches = read_chain(files)
    stack = [
        (path.relative_to(root).as_posix(), patch)
        for path, patch in zip(files, patches, strict=True)
    ]
    title = ", ".join(patch.name for patch in patches)
    if spec is None:
        write(root / CARD, write_card(CardContent(title, stack, licence=licence)))
        return CardResult(root / CARD, licence=licence)
    require_free_picture(root / PICTURE)
    session = BuildSession.of(spec, device, progress, root)
    require_functions(session)
    found = find_licence(session.loaded.spec.model.weights, fetch_weights(session.loaded))
    named = _choose_licence(found, licence)
    if found.text is not None:
        kept_file(found.text).require_free(root / LICENCE)
    rows = _check(session, [patch.metadata["content"] for patch in patches])
    preview = session.modality.preview(session.reopen(), PICTURES)
    picture = None if preview is None else PICTURE
    if preview is not None:
        write(root / PICTURE, png_bytes(preview))
    if found.text is not None:
        write(root / LICENCE, found.text)
    weights = session.loaded.spec.model.weights
    content = CardContent(title, stack, weights, named, found.text is not None, picture, rows)
    write(root / CARD, write_card(content))
    return CardResult(root / CARD, None if picture is None else root / picture, named)


def _choose_licence(found: Licence, given: str | None) -> str | None:
    """The licence of the base, which nobody may change."""
    if None not in (found.name, given) and found.name != given:
        raise UsageError(
            f"The card of the base says that its licence is {found.name}, and not {given}.",
            "Leave --licence out.",
        )
    return found.name or given


def _check(session: BuildSession, digests: list[str]) -> tuple[CheckRow, ...]:
    """Measure the checks of a spec whose patches have these digests."""
    built = [session.edit(number) for number in range(len(session.loaded.spec.edits))]
    if [edit.patch.metadata["content"] for edit in built] != digests:
        raise PatchError(
            f"The folder does not hold the patches of {session.loaded.path}.",
            "Build the spec into the folder first.",
        )
    return check_session(session.rewind(built)).checks
