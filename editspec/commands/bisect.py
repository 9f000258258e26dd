"""``editspec bisect``: from which edit of a stack on something is worse than it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editspec.commands.blame import open_stack
from editspec.engine.bisection import find_crossing
from editspec.engine.questions import AT_LEAST, AT_MOST, Bound
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
        Whether the value does not keep the bound.
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
    item, measure, at_most, at_least
        The item, the name of the measure, and the bound, of which one is None.
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
    at_most: float | None
    at_least: float | None
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
        beyond, exceeding, keeping = "above", ">", "<="
        limit = self.at_most
        if limit is None:
            beyond, exceeding, keeping = "below", "<", ">="
            limit = self.at_least
        if self.edit is None:
            lines = [
                f"{self.item}: after all edits {self.measure} is {self.after:.3g}, which is not "
                f"{beyond} {limit:g}."
            ]
        else:
            lines = [
                f"{self.item}: {self.measure} is {self.before:.3g} before {self.edit} and "
                f"{self.after:.3g} after it, {beyond} {limit:g}."
            ]
        for each in self.tried:
            mark = exceeding if each.exceeds else keeping
            lines.append(f"after edit {each.edits}, {each.last}: {each.value:.3g} {mark} {limit:g}")
        if self.untried:
            names = ", ".join(self.untried)
            lines.append(
                f"Not measured: after {names}. The measure may have been {beyond} the bound "
                "there, too, and back since."
            )
        return "\n".join(lines)


def bisect(
    spec: Path | str | LoadedSpec,
    *,
    measure: str,
    latent: int | None = None,
    prompt: str | None = None,
    text: str | None = None,
    edit: str | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
    patches: Path | str | None = None,
    device: str = "auto",
    progress: ProgressCallback = no_progress,
) -> BisectResult:
    """Find the edit of a stack after which a measure of one item exceeds a bound.

    The item is an image, a prompt of a language model, or a check of its spec. The first half of
    the stack is measured, then half of the half in which the bound is crossed, and so on. Where the
    measure gets worse with every edit, that is the first edit after which it exceeds the bound.
    Else it is one of those, and both sides of it were measured.

    Parameters
    ----------
    measure
        Of an image: ``trace``, the largest mean change of 3 x 3 pixels where no edit so far has
        its target and no context's key matches (0.1 is visible), or ``collateral``, the mean
        change of all pixels. Of a prompt: ``probability``, that of `text` behind it, or
        ``divergence``, that of the next token's distribution from the unedited one's, in nats; of a
        prompt of a text-to-image model ``change``, that of its values, as a share of their length.
        Without a prompt: the name or the measure of a check of texts, of the edit that it is about.
    latent
        The number of the image in the stream of the spec.
    prompt, text
        A whole prompt, and what is to follow it.
    edit
        The edit that a check is about, where it is about several.
    at_most, at_least
        The bound, from the side of the measure. Default: that of the check.
    patches
        The folder of a build, whose patches are taken. Patches that lie neither there nor in the
        cache are solved.

    Raises
    ------
    SpecError
        The spec or its lock is wrong.
    UsageError
        There is no such measure or item, the bound is missing or from the wrong side, or the
        bound is broken before the first edit already.
    EditError
        The weights or the numbers are wrong.
    """
    session = open_stack(spec, patches, device, progress)
    names = [edit.name for edit in session.loaded.spec.edits]
    asked = {"latent": latent, "prompt": prompt, "text": text, "edit": edit, "measure": measure}
    question = session.modality.question(session, asked)
    given = {AT_MOST: at_most, AT_LEAST: at_least}
    bound, limit = _find_limit(question.bound_of(measure), measure, given)
    for number in range(len(names)):
        session.edit(number)
    with session.kernels():
        found = find_crossing(
            len(names),
            lambda count: question.measure(session, measure, count),
            lambda value: bound.keeps(value, limit),
            question.first,
        )
        last = found.found or len(names)
        before = None
        if found.found is not None:
            before = found.values.get(last - 1)
            if before is None:
                before = question.measure(session, measure, last - 1)
    if last == 1 and before is not None and not question.first and not bound.keeps(before, limit):
        raise UsageError(
            f"{question.name}: {measure} is {before:.3g} before the first edit already.",
            "Give a bound that the unedited model keeps.",
        )
    tried = []
    for count, value in found.values.items():
        exceeds = not bound.keeps(value, limit)
        tried.append(TriedStack(count, names[count - 1], value, exceeds))
    return BisectResult(
        question.name,
        measure,
        limit if bound.side == AT_MOST else None,
        limit if bound.side == AT_LEAST else None,
        None if found.found is None else names[last - 1],
        before,
        found.values[last],
        tuple(tried),
        tuple(names[count - 1] for count in found.untried),
    )


def _find_limit(
    usual: Bound, measure: str, given: Mapping[str, float | None]
) -> tuple[Bound, float]:
    """Find the bound of a measure and its limit, among those that are given by their side.

    Raises `UsageError` where there is none, more than one, or one from the wrong side.
    """
    sides = [side for side, limit in given.items() if limit is not None]
    if len(sides) > 1:
        raise UsageError("--at-most and --at-least exclude each other.", "Give one of them.")
    side = sides[0] if sides else usual.side
    bound = replace(usual, side=side)
    if side != usual.side and not usual.either:
        raise UsageError(
            f"{_option(side)} is no bound of {measure}, which is to be {usual.side} something.",
            f"Give {_option(usual.side)}.",
        )
    limit = given[side] if sides else usual.limit
    if limit is None:
        options = " or ".join(map(_option, given)) if usual.either else _option(side)
        raise UsageError(f"{options} is missing.", f"Give {_option(side)} 0.1, say.")
    if not 0 <= limit < math.inf:
        raise UsageError(
            f"The bound is {limit}, expected a number from 0.", f"Give {_option(side)} 0.1, say."
        )
    return bound, limit


def _option(side: str) -> str:
    """The option that bounds a measure from a side."""
    return f"--{side.replace(' ', '-')}"
