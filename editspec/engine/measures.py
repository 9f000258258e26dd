"""Measures for checks that every modality has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from editspec.engine.built import BuiltEdit
from editspec.engine.checks import Value
from editspec.engine.collateral import predicted_collateral
from editspec.engine.session import BuildSession
from editspec_compiler.schema import Check, Finite, PatchSize, PredictedCollateral, TargetError
from editspec_runtime.methods.solve_edit import loss_of


@dataclass(frozen=True)
class Measures:
    """The measures of a stack of patches that every modality has.

    A modality extends them by its own. Each measure gives a value and a remark.
    """

    session: BuildSession
    built: Sequence[BuiltEdit]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each edit by its name."""
        return {edit.name: number for number, edit in enumerate(self.session.loaded.spec.edits)}

    def measure(self, number: int, edit: str | None) -> Value:
        """Measure check `number` of the spec for an edit.

        `edit` is None for a check of all edits together, which only modalities have.
        """
        check: Check = self.session.loaded.spec.checks[number]
        assert edit is not None
        which = self.numbers[edit]
        if isinstance(check, TargetError):
            return self.loss(which), ""
        if isinstance(check, PredictedCollateral):
            return predicted_collateral(self.built[which].patch), ""
        if isinstance(check, PatchSize):
            return len(self.built[which].patch.to_bytes()), ""
        assert isinstance(check, Finite)
        return self.finite(which)

    def loss(self, number: int) -> float:
        """The loss of edit `number`, measured anew, since anyone may have edited the lock."""
        session = self.session.after(number)
        before = session.current_model()
        weights = session.stacked.apply(self.session.stack[: number + 1])
        return loss_of(session.rule(number, before), before, weights)

    def finite(self, number: int) -> tuple[int, str]:
        """The count of numbers in the patch of edit `number` that are not finite."""
        count = sum(map(count_not_finite, self.session.stack[number].tensors().values()))
        return count, f"{count} numbers of the patch are not finite" if count else ""


def count_not_finite(tensor: Tensor) -> int:
    """The count of numbers of a tensor that are infinite or not a number."""
    return int((~tensor.isfinite()).sum())
