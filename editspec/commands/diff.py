"""``editspec diff``: the differences of patches, stacks or weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editspec.engine.differences import WeightsDifference, compare_weights
from editspec.engine.facts import value_text
from editspec.engine.resources import locate_weights
from editspec.engine.result import CommandResult
from editspec.engine.stacks import choose_by_stack, find_stack
from editspec.modalities.image.pictures import picture_bytes, require_free_picture
from editspec.modalities.image.preview import Checkpoint, draw_checkpoints
from editspec_runtime.errors import PatchError
from editspec_runtime.families.open import read_weights
from editspec_runtime.io.files import write
from editspec_runtime.maths.metric import cosine, norm, principal_cosines, unfold
from editspec_runtime.maths.parallel import unshared_operations
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import Patch, apply_stack

PICTURES = 8
"""The number of images that each side of a picture shows."""

SHORT = 24
"""The most characters of a value of metadata that is shown whole."""


@dataclass(frozen=True)
class OnlyIn:
    """A parameter that only one of two patches changes, ``first`` or ``second``."""

    only: str

    def to_line(self, name: str) -> str:
        """The parameter `name` for people."""
        return f"{name}: only {self.only}"


@dataclass(frozen=True)
class ChangeDifference:
    """The distance of two changes of a parameter.

    Attributes
    ----------
    difference
        The norm of the difference, relative to that of the first change.
    cosine
        The cosine between both changes.
    angle
        The largest principal angle between the directions D, in radians.
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
        The name of the first patch.
    identical
        Whether the bytes of both are equal.
    metadata
        Both values of each field that differs.
    parameters
        Each parameter that one of the patches changes.
    """

    name: str
    identical: bool
    metadata: dict[str, tuple[Any, Any]]
    parameters: dict[str, OnlyIn | ChangeDifference]

    def to_lines(self) -> list[str]:
        """The difference for people."""
        verdict = "the same" if self.identical else "differs"
        lines = [f"{self.name}: {verdict}"]
        for name, (before, after) in self.metadata.items():
            lines += _field_lines(name, before, after)
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
        """One line for each edit, with its differences below it."""
        lines = [f"+ {name}" for name in self.added]
        lines += [f"- {name}" for name in self.removed]
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
        """One line for each tensor that differs."""
        return "\n".join(self.weights.to_lines() + ["no difference"] * self.same)


@unshared_operations()
def diff(
    first: Path | str,
    second: Path | str,
    *,
    picture: Path | str | None = None,
    model: str | Path | None = None,
) -> PatchesDiff | WeightsDiff:
    """Show the differences of two patches, two stacks or two files of weights.

    Parameters
    ----------
    first, second
        Two patches, two folders of a build, or two files of weights.
    picture
        A picture (.png, .jpg, .webp) with images of both, `first` above `second`.
    model
        The base that patches are applied to for the picture.

    Raises
    ------
    PatchError
        The two are of different kinds, or a picture of patches is wanted without a model.
    WeightsError
        A picture is wanted, and the weights are of no family.
    FileError
        A file is missing or damaged, or a foreign file lies at `picture`.
    """
    if picture is not None:
        require_free_picture(Path(picture))
    found = _compare(Path(first), Path(second))
    if picture is not None:
        _draw(Path(first), Path(second), Path(picture), model)
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
    if single:
        # Two single patches are compared whatever their names are.
        before, after = {"": first[0]}, {"": second[0]}
    else:
        before = {patch.name: patch for patch in first}
        after = {patch.name: patch for patch in second}
    shared = [name for name in before if name in after]
    added = [name for name in after if name not in before]
    removed = [name for name in before if name not in after]
    edits = tuple(_compare_patches(before[name], after[name]) for name in shared)
    identical = all(edit.identical for edit in edits)
    return PatchesDiff(
        kind="patch" if single else "stack",
        added=tuple(added),
        removed=tuple(removed),
        edits=edits,
        same=identical and list(before) == list(after),
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
    full, another = first.delta(name), second.delta(name)
    if full.shape != another.shape:
        raise PatchError(
            f"The patches change {name} {list(full.shape)} and {list(another.shape)}: they are of "
            "different weights.",
            "Compare patches that were built from the same model.",
        )
    change, other = unfold(full), unfold(another)
    plain = torch.eye(change.shape[1], dtype=torch.float64)
    cosines = principal_cosines(first.row_space(name), second.row_space(name))
    # A change of zeros has no directions, and no norm to be relative to.
    angle = float(torch.arccos(cosines[-1])) if len(cosines) else 0.0
    return ChangeDifference(
        difference=norm(change - other, plain) / max(norm(change, plain), 1e-300),
        cosine=cosine(change, other, plain),
        angle=angle,
    )


def _draw(first: Path, second: Path, out: Path, model: str | Path | None) -> None:
    """Draw images of two sides, `first` above `second`."""
    sides = _open_side(first, model), _open_side(second, model)
    picture = draw_checkpoints(*sides, PICTURES, labels=("A", "B"))
    write(out, picture_bytes(picture, out))


def _open_side(path: Path, model: str | Path | None) -> Checkpoint:
    """The weights at a path, or `model` with the patches that lie there."""
    stack = find_stack(path)
    if stack is None:
        place = locate_weights(str(path), Path())
        return Checkpoint(read_weights(place), place)
    if model is None:
        raise PatchError("Patches draw nothing by themselves.", "Give --model BASE.")
    place = locate_weights(str(model), Path())
    base = read_weights(place, choose_by_stack(stack))
    require_chain(base.digest(), stack)
    return Checkpoint(apply_stack(base, stack).with_changes({}, {}), place)


def _field_lines(name: str, before: Any, after: Any) -> list[str]:
    """One line for a field that differs, or one for each part of it that differs."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [f"  {name}: {_shorten(before)} -> {_shorten(after)}"]
    lines = []
    for part in sorted({*before, *after}):
        old, new = before.get(part), after.get(part)
        if old != new:
            lines += _field_lines(f"{name}.{part}", old, new)
    return lines


def _shorten(value: Any) -> str:
    text = value_text(value)
    return text if len(text) <= SHORT else text[: SHORT // 2] + "…"
