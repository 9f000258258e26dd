"""``editspec bisect``: from which edit of a stack on an image is worse than it may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.commands.blame import open_stack
from editspec.engine.bisection import find_crossing
from editspec.engine.result import CommandResult, to_plain
from editspec_compiler import LoadedSpec
from editspec_runtime.core.progress import ProgressCallback, no_progress
from editspec_runtime.errors import UsageError


@dataclass(frozen=True)
class TriedStack:
    """The first edits of a stack, and what they have done to an item.

    Attributes
    ----------
    edits
        The number of edits.
    last
        The name of the last of them.
    value
        The measure of the item after these edits.
    exceeds
        Whether the value is above the bound.
    """

    edits: int
    last: str
    value: float
    exceeds: bool


@dataclass(frozen=True)
class BisectResult(CommandResult):
    """The edit after which a measure of an item exceeds a bound, and not before it.

    Attributes
    ----------
    item, measure, at_most
        The item, the name of the measure, and the bound.
    edit
        The name of the edit; None where all edits together keep the bound.
    before, after
        The measure before the edit and after it; of all edits together where there is none.
    tried
        The stacks that were measured, ascending.
    untried
        The names of the edits before `edit` after which nothing was measured.
    """

    item: str
    measure: str
    at_most: float
    edit: str | None
    before: float | None
    after: float
    tried: tuple[TriedStack, ...]
    untried: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def to_text(self) -> str:
        """The edit, both sides of it, and all that was measured."""
        if self.edit is None:
            lines = [
                f"{self.item}: after all edits {self.measure} is {self.after:.3g}, which is not "
                f"above {self.at_most:g}."
            ]
        else:
            lines = [
                f"{self.item}: {self.measure} is {self.before:.3g} before {self.edit} and "
                f"{self.after:.3g} after it, above {self.at_most:g}."
            ]
        for each in self.tried:
            mark = ">" if each.exceeds else "<="
            lines.append(
                f"after edit {each.edits}, {each.last}: {each.value:.3g} {mark} {self.at_most:g}"
            )
        if self.untried:
            names = ", ".join(self.untried)
            lines.append(
                f"Not measured: after {names}. The measure may have been above there, too, and "
                "below again since."
            )
        return "\n".join(lines)


def bisect(
    spec: Path | str | LoadedSpec,
    *,
    measure: str,
    latent: int,
    at_most: float,
    patches: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BisectResult:
    """Find the edit of a stack after which a measure of one image exceeds a bound.

    The first half of the stack is measured, then half of the half in which the bound is crossed,
    and so on. Where the measure grows with every edit, that is the first edit after which it
    exceeds the bound. Else it is one of those, and both sides of it were measured.

    Parameters
    ----------
    measure
        ``trace``: the largest mean change of 3 x 3 pixels where no edit so far has its target and
        no context's key matches; 0.1 is visible. ``collateral``: the mean change of all pixels.
    latent
        The number of the image in the stream of the spec.
    at_most
        The bound.
    patches
        The folder of a build, whose patches are taken. Patches that lie neither there nor in the
        cache are solved.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    UsageError
        There is no such measure, the bound is no number from 0, or the family does not draw images.
    EditError
        The weights or the numbers are wrong.
    """
    if not at_most >= 0:
        raise UsageError(
            f"The bound is {at_most}, expected a number from 0.", "Give --at-most 0.1, say."
        )
    session = open_stack(spec, patches, device, progress)
    names = [edit.name for edit in session.loaded.spec.edits]
    question = session.modality.question(session, {"latent": latent})
    question.require_measure(measure)
    for number in range(len(names)):
        session.edit(number)
    with session.kernels():
        found = find_crossing(
            len(names), lambda count: question.measure(session, measure, count), at_most
        )
    tried = []
    for count, value in found.values.items():
        tried.append(TriedStack(count, names[count - 1], value, value > at_most))
    last = found.found or len(names)
    # Nothing has changed before the first edit.
    before = None if found.found is None else found.values.get(last - 1, 0.0)
    return BisectResult(
        question.name,
        measure,
        at_most,
        None if found.found is None else names[last - 1],
        before,
        found.values[last],
        tuple(tried),
        tuple(names[count - 1] for count in found.untried),
    )
