"""Notes: what a method says of how it went on where it could not do as it was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

NOTES = "notes"
"""The field of a patch, and the name of the tensor in the cache, that hold notes."""

STATED = ("collateral", NOTES)
"""What a patch says of its change besides its tensors, where there is something to say."""


def encode_notes(notes: Sequence[str]) -> dict[str, Tensor]:
    """Notes as a tensor, which the cache keeps with a solution; nothing where there are none."""
    if not notes:
        return {}
    return {NOTES: torch.tensor(list(json.dumps(notes).encode()), dtype=torch.uint8)}


def decode_notes(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Take the notes out of the tensors of a solution, as metadata of its patch."""
    if NOTES not in tensors:
        return {}
    return {NOTES: json.loads(bytes(tensors.pop(NOTES).tolist()))}
