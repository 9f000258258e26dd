"""A model that is open in Python: its base, and the patches on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from editspec.engine.stacks import read_stack, require_belonging, require_named
from editspec.engine.torch_module import ModelModule
from editspec_runtime.io.weights import Weights
from editspec_runtime.patches.patch import Patch, apply_stack


@dataclass(frozen=True, repr=False)
class OpenedModel:
    """A model that is open: its base, and the patches on it.

    Attributes
    ----------
    model
        The model as the patches leave it, on its device and in its precision.
    checkpoint, place
        The unedited weights, and the path of their file.
    patches
        The stack, in order.
    precision
        The precision of the model, ``float32`` or ``float64``.
    """

    model: Any
    checkpoint: Weights
    place: Path
    patches: tuple[Patch, ...] = ()
    precision: str = "float32"

    def __repr__(self) -> str:
        # A notebook shows this, where the tensors of weights and patches would fill pages.
        names = ", ".join(patch.name for patch in self.patches) or "no patches"
        return f"{type(self).__name__}({self.model.architecture.family} {self.place}, {names})"

    @cached_property
    def weights(self) -> Weights:
        """The edited weights by their names in the checkpoint, in its own precision."""
        return apply_stack(self.checkpoint, self.patches)

    @property
    def digest(self) -> str:
        """The digest of the edited weights."""
        return self.weights.digest()

    def module(self) -> ModelModule:
        """The model as a module of torch, as the patches leave it: to train, to move, to save."""
        return ModelModule(self.model)

    def compare(self) -> Any | None:
        """A picture of what the patches change; None of models that draw nothing."""
        return None

    def with_patches(self, *patches: Path | str | Patch) -> Self:
        """Put patches on top of those that the model has; the model itself stays as it is.

        Raises
        ------
        PatchError
            A patch is damaged, or was solved on other weights.
        """
        added = [each for patch in patches for each in _read(patch)]
        stack = (*self.patches, *added)
        require_belonging(self.place, self.checkpoint.metadata, self.checkpoint.digest(), stack)
        weights = apply_stack(self.checkpoint, stack)
        require_named(weights.digest(), stack)
        device = next(iter(self.model.weights.values())).device
        model = self.model.with_weights(weights.place(self.precision, device))
        return replace(self, model=model, patches=stack)


def _read(patch: Path | str | Patch) -> list[Patch]:
    return [patch] if isinstance(patch, Patch) else read_stack([patch])
