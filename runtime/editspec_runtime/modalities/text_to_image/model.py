"""The protocol of a model that draws what a prompt says, as far as edits need it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from editspec_runtime.core.model import Model
from editspec_runtime.modalities.text_to_image.batches import PromptBatch


class PromptedModel(Model, Protocol):
    """A model whose layers all read what its text encoders give for a prompt.

    The keys lie before every layer, so that no edit changes them.
    """

    def encode(self, batch: PromptBatch) -> Tensor:
        """Compute the keys of a batch, [n, positions, width]."""
