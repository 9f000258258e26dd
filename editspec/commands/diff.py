"""``editspec diff``: the difference of two patches, two stacks or two files of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editspec.engine.differences import WeightsDifference, compare_weights
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.stacks import find_stack
from editspec.modalities.image.pictures import before_and_after, png_bytes, require_free_picture
from editspec.modalities.image.preview import render_checkpoint
from editspec_runtime.errors import PatchError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.files import write
from editspec_runtime.maths.metric import cosine, norm, principal_cosines, unfolded
from editspec_runtime.patches.patch import Patch, apply_stack, require_chain

PICTURES = 8
"""Images that each side of a picture shows."""

SHORT = 24
"""Characters up to which a value of metadata is shown whole."""


@dataclass(frozen=True)
class OnlyIn:
    """A parameter that one of two patches changes: ``first`` or ``second``."""

    only: str

    def to_line(self, name: str) -> str:
        """The parameter `name` for people."""
        return f"{name}: only {self.only}"


@dataclass(frozen=True)
class ChangeDifference:
    """How far two changes of a parameter are apart.

    Attributes
    ----------
    difference
        Relative to the first.
    cosine
        Between both.
    angle
        The largest principal angle of D, in radians.
    """

    difference: float
    cosine: float
    angle: float

    def to_line(self, name: str) -> str:
        """The parameter `name` for people."""
        return (
            f"{name}: difference {self.difference:.3g}  cosine {self.cosine:.3g}  "
            f"angle {self.angle:.3g}"
        )


@dataclass(frozen=True)
class PatchDifference:
    """All that differs between two patches of one name.

    Attributes
    ----------
    name
        That of the first.
    identical
        Whether their bytes are equal.
    metadata
        Both values of each field that differs.
    parameters
        Each parameter that either changes.
    """

    name: str
    identical: bool
    metadata: dict[str, tuple[Any, Any]]
    parameters: dict[str, OnlyIn | ChangeDifference]

    def to_lines(self) -> list[str]:
        """The difference for people."""
        lines = [f"{self.name}: {'the same' if self.identical else 'differs'}"]
        for name, (before, after) in self.metadata.items():
            lines.append(f"  {name}: {_shorten(before)} -> {_shorten(after)}")
        if not self.identical:
            lines += [f"  {part.to_line(name)}" for name, part in self.parameters.items()]
        return lines


@dataclass(frozen=True)
class PatchesDiff(CommandResult):
    """The difference of two patches or of two stacks.

    Attributes
    ----------
    kind
        ``patch`` or ``stack``.
    added, removed
        The edits that only the second or only the first has.
    edits
        Each edit that both have.
    same
        Whether both are the same patches in the same order.
    """

    kind: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    edits: tuple[PatchDifference, ...]
    same: bool

    def to_text(self) -> str:
        """One line an edit, with all that differs below it."""
        lines = [f"+ {name}" for name in self.added] + [f"- {name}" for name in self.removed]
        for edit in self.edits:
            lines += edit.to_lines()
        return "\n".join(lines + ["no difference"] * self.same)


@dataclass(frozen=True)
class WeightsDiff(CommandResult):
    """The difference of two files of weights."""

    weights: WeightsDifference

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.weights.same

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain values."""
        return {"kind": "weights", **self.weights.to_dict()}

    def to_text(self) -> str:
        """One line a tensor that differs."""
        return "\n".join(self.weights.to_lines() + ["no difference"] * self.same)


def diff(
    first: Path | str,
    second: Path | str,
    *,
    picture: Path | str | None = None,
    model: str | Path | None = None,
) -> PatchesDiff | WeightsDiff:
    """Say what differs between two patches, two stacks (folders of a build) or two files of weights.

    With `picture`, images of both are drawn there, `first` above `second`; patches are applied to
    `model`.

    Raises
    ------
    PatchError
        The two are of different kinds; or a picture of patches is asked for without a model.
    WeightsError
        A picture is asked for, and the weights are of no family.
    FileError
        A file is missing or damaged, or something else lies at `picture`.
    """
    found = _compare(Path(first), Path(second))
    if picture is not None:
        _draw(first, second, Path(picture), model)
    return found


def _compare(first: Path, second: Path) -> PatchesDiff | WeightsDiff:
    stack, other = find_stack(first), find_stack(second)
    if stack is not None and other is not None:
        return _compare_stacks(stack, other)
    if stack is not None or other is not None:
        raise PatchError(
            f"{first} and {second} are of different kinds.",
            "Give two patches, two folders, or two weights.",
        )
    before = read_weights(locate_weights(str(first), Path()))
    after = read_weights(locate_weights(str(second), Path()))
    return WeightsDiff(compare_weights(before, after))


def _compare_stacks(first: Sequence[Patch], second: Sequence[Patch]) -> PatchesDiff:
    single = len(first) == len(second) == 1
    # Two single patches are compared whatever their names are.
    before = {"" if single else patch.name: patch for patch in first}
    after = {"" if single else patch.name: patch for patch in second}
    shared = [name for name in before if name in after]
    edits = tuple(_compare_patches(before[name], after[name]) for name in shared)
    return PatchesDiff(
        kind="patch" if single else "stack",
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        edits=edits,
        same=list(before) == list(after) and all(edit.identical for edit in edits),
    )


def _compare_patches(first: Patch, second: Patch) -> PatchDifference:
    metadata = {}
    for name in sorted({*first.metadata, *second.metadata} - {"content", "collateral"}):
        values = first.metadata.get(name), second.metadata.get(name)
        if values[0] != values[1]:
            metadata[name] = values
    names = sorted({*first.parameters, *second.parameters})
    parameters = {name: _compare_changes(first, second, name) for name in names}
    identical = first.to_bytes() == second.to_bytes()
    return PatchDifference(first.name, identical, metadata, parameters)


def _compare_changes(first: Patch, second: Patch, name: str) -> OnlyIn | ChangeDifference:
    if name not in second.parameters:
        return OnlyIn("first")
    if name not in first.parameters:
        return OnlyIn("second")
    change, other = unfolded(first.delta(name)), unfolded(second.delta(name))
    plain = torch.eye(change.shape[1], dtype=torch.float64)
    cosines = principal_cosines(first.row_space(name), second.row_space(name))
    return ChangeDifference(
        difference=norm(change - other, plain) / max(norm(change, plain), 1e-300),
        cosine=cosine(change, other, plain),
        angle=float(torch.arccos(cosines[-1])) if len(cosines) else 0.0,
    )


def _draw(first: Path | str, second: Path | str, out: Path, model: str | Path | None) -> None:
    """Draw images of two sides, `first` above `second`."""
    require_free_picture(out)
    images = []
    for path in (first, second):
        stack = find_stack(Path(path))
        if stack is not None and model is None:
            raise PatchError("Patches draw nothing by themselves.", "Give --model BASE.")
        place = locate_weights(str(path) if stack is None else str(model), Path())
        checkpoint = read_weights(place)
        if stack is not None:
            require_chain(checkpoint.digest(), stack)
            checkpoint = apply_stack(checkpoint, stack).with_changes({}, {})
        images.append(render_checkpoint(checkpoint, place, PICTURES))
    write(out, png_bytes(before_and_after(images[0], images[1], labels=("A", "B"))))


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHORT else text[: SHORT // 2] + "…"
