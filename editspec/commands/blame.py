"""``editspec blame``: which edit of a stack did this to that item."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from editspec.engine.questions import Coalitions
from editspec.engine.result import CommandResult, to_plain
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import png_bytes
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError
from editspec_runtime.io.files import write
from editspec_runtime.io.outputs import run_folder
from editspec_runtime.maths.shapley import MOST_EXACT, PAIRS, attribute, measure_along

FORMAT = "editspec.blame"

NOTICEABLE = 1e-6
"""The largest change that counts as none."""


@dataclass(frozen=True)
class BlamedEdit:
    """The part of one edit in what a whole stack changed.

    Attributes
    ----------
    name
        The name of the edit.
    share
        Shapley's share of the whole change. The shares add up to 1; that of an edit that works
        against the others is negative.
    error
        The standard error of the share; 0 where all orders of the edits are counted.
    alone
        How much of the whole change is there with this edit alone.
    without
        How much of the whole change is there with all edits but this one.
    """

    name: str
    share: float
    error: float
    alone: float
    without: float


@dataclass(frozen=True)
class BlameResult(CommandResult):
    """The change of one item, divided among the edits of a stack.

    Attributes
    ----------
    item
        The item, such as ``latent 7``.
    change, unit
        The size of the change of what is looked at, and the meaning of that number.
    edits
        The edits in the order of the stack.
    orders
        The number of sampled orders of the edits; None where all are counted.
    seed
        The seed of the samples; None where there are none.
    picture
        The item with and without each edit; None where its modality has no pictures.
    """

    item: str
    change: float
    unit: str
    edits: tuple[BlamedEdit, ...]
    orders: int | None
    seed: int | None
    picture: Image.Image | None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``blame.json``."""
        return {
            "format": FORMAT,
            "version": 1,
            "item": self.item,
            "change": self.change,
            "unit": self.unit,
            "orders": self.orders,
            "seed": self.seed,
            "edits": to_plain(self.edits),
        }

    def to_text(self) -> str:
        """The edits as a table, and how their shares were found."""
        table = [("edit", "share", "alone", "without it")]
        for edit in self.edits:
            share = f"{edit.share:.1%}"
            if self.orders is not None:
                share += f" ± {edit.error:.1%}"
            table.append((edit.name, share, f"{edit.alone:.1%}", f"{edit.without:.1%}"))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [f"{self.item}: changed by {self.change:.3g} {self.unit}; of the whole change:"]
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        if self.orders is not None:
            lines.append(f"Shares of {self.orders} sampled orders, with their standard error.")
        return "\n".join(lines)


def blame(
    spec: Path | str | LoadedSpec,
    out: Path | str,
    *,
    latent: int | None = None,
    mask: str | None = None,
    prompt: str | None = None,
    text: str | None = None,
    patches: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BlameResult:
    """Divide what the edits of a spec changed in one item among them.

    An item is a place of an image, or what follows a prompt: the probability of a text, or those
    of all next tokens; of a text-to-image model, the values of the prompt. With c(S) the change of
    these numbers by the edits S alone, the value of S is <c(S), c(all)> / <c(all), c(all)>: how
    much of the whole change is there. The share of an edit is its Shapley value: what it adds to
    that, in the mean over all orders in which the edits can be put on the base. The shares add up
    to 1.

    Patches are exact changes of the base, so that any of them can be left out. Up to 8 edits, all
    coalitions are drawn; above, orders are sampled.

    Writes ``blame.json`` and ``blame.png`` into `out`: the item before and after, without each
    edit, and the part of each.

    Parameters
    ----------
    latent
        The number of the image in the stream of the spec.
    mask
        The place: a file, a data URL, or shapes as JSON or YAML. Default: the whole image.
    prompt, text
        A whole prompt, and of a language model the text whose probability behind it is looked at.
        Default: the probabilities of all next tokens.
    patches
        The folder of a build, whose patches are taken. Patches that lie neither there nor in the
        cache are solved.
    seed
        The seed of the sampled orders.

    Raises
    ------
    SpecError
        The spec, its lock or the mask is wrong.
    UsageError
        The spec has one edit, the edits change nothing there, or the item is not of the family.
    EditError
        The weights or the numbers are wrong, or foreign files lie at `out`.
    """
    out = Path(out)
    run_folder("blame.json", "blame").require_free(out)
    session = open_stack(spec, patches, device, progress)
    names = [edit.name for edit in session.loaded.spec.edits]
    if len(names) == 1:
        raise UsageError(
            f"The spec has one edit, {names[0]}: it did all that was changed.",
            "Give a spec of several edits.",
        )
    asked = {"latent": latent, "mask": mask, "prompt": prompt, "text": text}
    question = session.modality.question(session, asked)
    for number in range(len(names)):
        session.edit(number)
    total = count_values(len(names))
    coalitions = Coalitions(session, question, lambda done: progress("coalitions", done, total))
    with session.kernels():
        result = divide(coalitions, names, seed)
    write(out / "blame.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    if result.picture is not None:
        write(out / "blame.png", png_bytes(result.picture))
    return result


def divide(coalitions: Coalitions, names: Sequence[str], seed: int) -> BlameResult:
    """Divide among edits what they change together.

    Raises `UsageError` where that is nothing.
    """
    question, everyone = coalitions.question, tuple(range(len(names)))
    nothing = coalitions.value(())
    whole = coalitions.value(everyone) - nothing
    if float(whole.abs().max()) <= NOTICEABLE:
        raise UsageError(
            f"The edits change nothing there in {question.name}.",
            "Give a place that has changed, or another image or prompt.",
        )
    found = attribute(len(names), coalitions.value, seed)
    edits = []
    for number, name in enumerate(names):
        others = everyone[:number] + everyone[number + 1 :]
        alone = measure_along(coalitions.value((number,)) - nothing, whole)
        without = measure_along(coalitions.value(others) - nothing, whole)
        share, error = found.shares[number], found.errors[number]
        edits.append(BlamedEdit(name, *map(float, (share, error, alone, without))))
    return BlameResult(
        question.name,
        question.size_of(whole),
        question.unit,
        tuple(edits),
        found.orders,
        seed if found.orders is not None else None,
        question.draw(coalitions.model, names, found),
    )


def open_stack(
    spec: Path | str | LoadedSpec,
    patches: Path | str | None,
    device: str,
    progress: ProgressCallback,
) -> BuildSession:
    """Open a session that takes the patches of the folder of a build, where one is given.

    Raises `UsageError` where the folder holds no build.
    """
    folder = None if patches is None else Path(patches)
    if folder is not None and not (folder / "patches").is_dir():
        raise UsageError(
            f"{folder} is not the folder of a build: it has no patches.",
            "Give the folder of editspec build -o DIR, or leave --patches out.",
        )
    return BuildSession.of(spec, device, progress, folder)


def count_values(edits: int) -> int:
    """The largest number of coalitions that are valued for so many edits."""
    if edits <= MOST_EXACT:
        return int(2**edits)
    # Every order has one coalition of each size between none and all; and each edit is left out.
    return 2 + 2 * PAIRS * (edits - 1) + 2 * edits
