"""The difference of two sets of weights, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editspec.engine.result import to_plain
from editspec_runtime.io.digests import tensor_digest
from editspec_runtime.maths.metric import unfold

SINGULAR_VALUES = 16
"""The most singular values of a change that are listed."""

NEGLIGIBLE = 1e-4
"""Singular values below this share of the largest do not count for the rank."""


@dataclass(frozen=True)
class ChangedShape:
    """The two shapes of a tensor that has another shape or type."""

    shapes: tuple[list[int], list[int]]

    def to_line(self, name: str) -> str:
        """The change of the tensor `name`, as a line for people."""
        return f"{name}: {self.shapes[0]} -> {self.shapes[1]}"


@dataclass(frozen=True)
class ChangedTensor:
    """The change of the numbers of a tensor, as a matrix [out * taps, in].

    Attributes
    ----------
    difference
        The norm of the change relative to that of the tensor before.
    rank
        The count of singular values that are not negligible.
    largest, spectrum
        The largest singular value, and the leading ones relative to it.
    """

    difference: float
    rank: int
    largest: float
    spectrum: tuple[float, ...]

    def to_line(self, name: str) -> str:
        """The change of the tensor `name`, as a line for people."""
        values = " ".join(f"{value:.2g}" for value in self.spectrum[:8])
        return (
            f"{name}: differs by {self.difference:.2e} of its norm, rank {self.rank}, "
            f"singular values {self.largest:.3g} x ({values})"
        )


@dataclass(frozen=True)
class WeightsDifference:
    """All that differs between two sets of weights.

    Attributes
    ----------
    equal
        The count of tensors that are equal.
    added, removed
        The tensors that only the second or only the first has.
    changed
        Each other tensor that differs.
    """

    equal: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, ChangedShape | ChangedTensor]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.changed or self.added or self.removed)

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain values."""
        return {**to_plain(self), "same": self.same}

    def to_lines(self) -> list[str]:
        """The difference for people, without a verdict."""
        lines = [f"+ {name}" for name in self.added]
        lines += [f"- {name}" for name in self.removed]
        lines += [change.to_line(name) for name, change in self.changed.items()]
        return lines


def compare_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> WeightsDifference:
    """Compare two sets of weights by names, shapes, types and numbers."""
    shared = sorted(set(before) & set(after))
    changed: dict[str, ChangedShape | ChangedTensor] = {}
    for name in shared:
        first, second = before[name], after[name]
        if first.shape != second.shape or first.dtype != second.dtype:
            changed[name] = ChangedShape((list(first.shape), list(second.shape)))
        elif tensor_digest(first) != tensor_digest(second):
            changed[name] = _compare_numbers(first.double(), second.double())
    added, removed = sorted(set(after) - set(before)), sorted(set(before) - set(after))
    return WeightsDifference(len(shared) - len(changed), tuple(added), tuple(removed), changed)


def _compare_numbers(before: Tensor, after: Tensor) -> ChangedTensor:
    change = after - before
    # A vector, such as a bias, is a matrix of one row.
    matrix = unfold(change) if change.ndim > 1 else change.reshape(1, -1)
    values = torch.linalg.svdvals(matrix)
    largest = values[0]
    leading = values[:SINGULAR_VALUES]
    size, norm = float(before.norm()), float(change.norm())
    # A tensor of zeros has no norm to be relative to.
    difference = norm / size if size else norm
    return ChangedTensor(
        difference=difference,
        rank=int((values > largest * NEGLIGIBLE).sum()),
        largest=float(largest),
        spectrum=tuple(float(value / largest) for value in leading),
    )
